#!/usr/bin/env python3
"""Uses the web page of `bitnet serve` in a real browser, as people do, and checks what they would see.

    pip install playwright && npm install axe-core      # and a Chromium: /usr/bin/chromium, or CHROMIUM=path
    cargo build -p bitnet-cli
    python3 crossval/web_page.py target/debug/bitnet [--axe node_modules/axe-core/axe.min.js] [--pictures DIRECTORY]
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.request

from playwright.sync_api import expect, sync_playwright

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("bitnet")
parser.add_argument("--axe", default="node_modules/axe-core/axe.min.js")
parser.add_argument("--pictures", type=pathlib.Path)
parser.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"), help="serve HTTPS with these PEM files; the browser trusts any certificate")
arguments = parser.parse_args()
trust = ssl.create_default_context(cafile=arguments.tls[0]) if arguments.tls else None
expect.set_options(timeout=60_000)
passed = 0


def check(what, condition):
    global passed
    if not condition:
        sys.exit(f"FAILED: {what}")
    passed += 1
    print(f"ok: {what}", flush=True)


@contextlib.contextmanager
def serving(*more):
    """A server with the story model, slow enough to be interrupted."""
    command = [arguments.bitnet, "serve", "--port", "0", "--isa", "scalar", "--threads", "1", "--drain-limit", "1", *more]
    if arguments.tls:
        command += ["--tls-cert", arguments.tls[0], "--tls-key", arguments.tls[1]]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"listening on (https?://\S+)", line):
                break
        else:
            sys.exit("the server did not start")
        yield found[1], server
    finally:
        server.kill()
        server.wait()


def metric(url, name):
    with urllib.request.urlopen(f"{url}/metrics", context=trust) as reply:
        return float(re.search(rf"^{name} (\S+)", reply.read().decode(), re.M)[1])


def picture(page, name):
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=arguments.pictures / f"{name}.png")


class Window:
    """A page, and what it complains about and asks for."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(accept_downloads=True, ignore_https_errors=bool(arguments.tls), **options)
        self.url = url
        self.complaints = []
        self.asked = []
        self.page = self.open()

    def open(self, path="/"):
        page = self.context.new_page()
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(self.url + path)
        expect(page.locator("#model-name")).not_to_be_empty()
        return page

    def say(self, text):
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def rest(self):
        """Waits until nothing is being answered."""
        expect(self.page.locator("#stop")).to_be_hidden()

    def answer(self):
        return self.page.locator(".message.assistant").last

    def texts(self):
        return self.page.locator(".message .text").all_text_contents()

    def close(self, expected=()):
        """No word on the console but those expected, no request to anybody else."""
        left = [text for text in self.complaints if not any(part in text for part in expected)]
        check(f"nothing on the console {left or ''}", not left)
        foreign = [url for url in self.asked if not url.startswith((self.url, "blob:", "data:"))]
        check(f"no request to anybody else {foreign or ''}", not foreign)
        self.context.close()


def downloaded(page, button):
    page.click("#export summary")
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "file"
        waiting.value.save_as(path)
        return waiting.value.suggested_filename, path.read_text()


def talk(browser, url):
    window = Window(browser, url, viewport={"width": 1200, "height": 800})
    page = window.page
    check("the field has the focus", page.evaluate("document.activeElement.id") == "prompt")
    picture(page, "empty")

    # send and stream
    page.evaluate("""() => {
        window.lengths = new Set();
        new MutationObserver(() => {
            const last = [...document.querySelectorAll(".message.assistant .text")].at(-1);
            if (last) lengths.add(last.textContent.length);
        }).observe(document.querySelector("#transcript"), { childList: true, subtree: true, characterData: true });
    }""")
    window.say("Once upon a time")
    expect(page.locator("#stop")).to_be_visible()
    window.rest()
    check("the answer came in pieces", page.evaluate("lengths.size") > 5)
    stats = window.answer().locator(".stats").text_content()
    check(f"counts and times: {stats}", re.match(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s · prompt \d+", stats))
    check("the context in use is shown", re.match(r"[\d,]+ of [\d,]+ tokens of context", page.text_content("#context")))
    check("the answer is announced", page.text_content("#live").startswith("Answer of"))
    check("the conversation has a name", page.title() == "Once upon a time · bitnet")

    # stop
    cancelled = metric(url, "bitnet_requests_cancelled_total")
    window.say("The dragon was very big")
    expect(window.answer().locator(".text")).not_to_be_empty()
    page.keyboard.press("Escape")
    window.rest()
    expect(window.answer().locator(".stats")).to_contain_text("stopped")
    page.wait_for_timeout(500)
    check("Escape stops the answer, here and in the server",
          metric(url, "bitnet_requests_cancelled_total") == cancelled + 1 and metric(url, "bitnet_requests_active") == 0)

    # again, and back
    part = window.answer().locator(".text").text_content()
    window.answer().get_by_role("button", name="Answer again").click()
    expect(page.locator("#stop")).to_be_visible()
    window.rest()
    expect(window.answer().locator(".count")).to_have_text("2 of 2")
    window.answer().get_by_role("button", name="Version before").click()
    expect(window.answer().locator(".count")).to_have_text("1 of 2")
    check("an earlier answer comes back", window.answer().locator(".text").text_content() == part)

    # edit: a second version of the question, with an answer of its own
    page.fill("#prompt", "")
    page.press("#prompt", "ArrowUp")
    field = page.get_by_label("Edit your message")
    check("the field holds the message", field.input_value() == "The dragon was very big")
    field.fill("The cat was very small")
    field.press("Enter")
    window.rest()
    texts = window.texts()
    check("the edited message is answered", len(texts) == 4 and texts[2] == "The cat was very small" and texts[3])
    expect(page.locator(".message.user").last.locator(".count")).to_have_text("2 of 2")

    # reload
    page.reload()
    expect(page.locator(".message")).to_have_count(4)
    check("a reload keeps the history", window.texts() == texts)
    page.locator(".message.user").last.get_by_role("button", name="Version before").click()
    check("and the other versions", window.texts()[2:] == ["The dragon was very big", part])

    # a second window sees it
    other = window.open()
    expect(other.locator("#conversations .open")).to_have_count(1)

    # rename
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Name of the conversation").fill("Dragons")
    page.keyboard.press("Enter")
    expect(page.locator("#title")).to_have_text("Dragons")
    expect(other.locator("#conversations .open")).to_have_text("Dragons")
    check("renamed, in both windows", True)
    other.close()

    # export
    name, text = downloaded(page, "Export as Markdown")
    check("Markdown", name == "dragons.md" and text.startswith("# Dragons\n\n## You\n\nOnce upon a time\n\n## Model\n\n"))
    name, text = downloaded(page, "Export as JSON")
    check("JSON has all versions", name == "dragons.json" and len(json.loads(text)["messages"]) == 7)

    # a second conversation, answered while the first is looked at
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#title")).to_have_text("New conversation")
    window.say("Two friends went out")
    expect(window.answer().locator(".text")).not_to_be_empty()
    page.locator("#conversations .open", has_text="Dragons").click()
    expect(page.locator(".message")).to_have_count(4)
    page.go_back()
    expect(page.locator(".message")).to_have_count(2)
    window.rest()
    check("a conversation goes on while another is shown", len(window.texts()[1]) > 20)

    # delete and undo
    for undo in (True, False):
        page.locator("#conversations li", has_text="Dragons").hover()
        page.get_by_role("button", name="Delete “Dragons”").click()
        expect(page.locator("#conversations li", has_text="Dragons")).to_have_count(0)
        if undo:
            page.get_by_role("button", name="Undo").click()
            expect(page.locator("#conversations li", has_text="Dragons")).to_have_count(1)
    page.reload()
    expect(page.locator("#conversations li")).to_have_count(1)
    check("deleted, brought back, deleted for good", True)

    # settings
    page.click("#new")
    page.click("#open-settings")
    for label, value in [("Temperature", "0"), ("Longest answer, tokens", "5")]:
        page.get_by_label(label).fill(value)
    picture(page, "settings")
    page.get_by_role("button", name="Close the settings").click()
    page.reload()
    window.say("The boy")
    window.rest()
    expect(window.answer().locator(".stats")).to_contain_text("5 tokens")
    expect(window.answer().locator(".stats")).to_contain_text("cut at the longest length")
    first = window.texts()[1]
    window.answer().get_by_role("button", name="Answer again").click()
    expect(window.answer().locator(".count")).to_have_text("2 of 2")
    window.rest()
    check("settings hold, also after a reload: greedy, five tokens", window.texts()[1] == first)

    # what the server refuses is said
    page.click("#open-settings")
    page.get_by_label("System prompt").fill("word " * 5000)
    page.keyboard.press("Escape")
    window.say("Too much")
    expect(window.answer().locator(".problem")).to_contain_text("tokens")
    page.click("#open-settings")
    page.get_by_label("System prompt").fill("")
    page.keyboard.press("Escape")
    window.answer().get_by_role("button", name="Try again").click()
    window.rest()
    check("the server's words about a wrong request are shown, and trying again works", window.texts()[-1])
    window.close(expected=["400"])


def windows(browser, url):
    """Two windows on the same conversations and settings."""
    window = Window(browser, url)
    page, other = window.page, window.open()
    window.say("Once upon a time")
    window.rest()
    hash = page.evaluate("location.hash")
    other.locator("#conversations .open").click()
    expect(other.locator(".message")).to_have_count(2)

    # both say something to it: each keeps what the other wrote
    other.fill("#prompt", "The cat was very small")
    other.press("#prompt", "Enter")
    expect(other.locator("#stop")).to_be_visible()
    page.wait_for_timeout(300)
    window.answer().get_by_role("button", name="Answer again").click()
    expect(page.locator("#stop")).to_be_hidden()
    expect(other.locator("#stop")).to_be_hidden()
    page.reload()
    stored = page.evaluate("JSON.parse(localStorage[Object.keys(localStorage).find(key => key.startsWith('bitnet.conversation.'))]).messages")
    said = [message for message in stored.values() if message and message.get("role") == "user"]
    answers = [message for message in stored.values() if message and message.get("role") == "assistant"]
    check(f"what two windows say to one conversation is kept ({len(said)}, {len(answers)})", len(said) == 2 and len(answers) == 3)

    # settings of one hold in the other
    page.click("#open-settings")
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Close the settings").click()
    other.click("#open-settings")
    other.get_by_label("Longest answer, tokens").fill("5")
    other.get_by_role("button", name="Close the settings").click()
    kept = json.loads(page.evaluate("localStorage['bitnet.settings']"))
    check(f"a choice in one window does not undo that in another {kept}", 0 in kept.values() and 5 in kept.values())

    # from the keyboard: the skip link, and Enter on Cancel
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    check("the skip link leads to the field and keeps the conversation",
          page.evaluate("document.activeElement.id") == "prompt" and page.evaluate("location.hash") == hash and page.locator(".message").count() > 0)
    before = page.locator(".message").count()
    page.fill("#prompt", "")
    page.press("#prompt", "ArrowUp")
    page.get_by_label("Edit your message").fill("Something else")
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    expect(page.get_by_label("Edit your message")).to_have_count(0)
    check("Enter on Cancel cancels", page.locator(".message").count() == before and "Something else" not in page.text_content("#transcript"))

    # deleted in one window, gone in the other
    other.locator("#conversations li").hover()
    other.get_by_role("button", name="Delete").click()
    expect(page.locator("#conversations li")).to_have_count(0)
    expect(page.locator(".message")).to_have_count(0)
    check("deleted in both windows", True)
    window.close()


def proxied(browser, url):
    """What others say who stand between, and a server that has another model now."""
    window = Window(browser, url)
    page = window.page
    for status, body, shown in [
        (502, "<h1>Bad gateway</h1>", "<h1>Bad gateway</h1>"),
        (503, "", "503|Service Unavailable"),
        (429, '{"error": {}}', "429|Too Many Requests"),
    ]:
        page.route("**/v1/**", lambda route: route.fulfill(status=status, body=body))
        window.say("Hello")
        expect(window.answer().locator(".problem")).to_contain_text(re.compile(shown))
        page.unroute("**/v1/**")
        page.click("#new")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body="data: {no json\n\n"))
    page.route("**/v1/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body="data: {no json\n\n"))
    window.say("Hello")
    expect(window.answer().locator(".problem")).to_contain_text("could not be read")
    page.unroute_all()
    check("errors of others are said", True)

    # after a restart another model is served: the first try says so, the second asks that one
    asked = []

    def other_model(route):
        asked.append(route.request.post_data_json["model"])
        if asked[-1] == "new":
            return route.fulfill(status=200, content_type="text/event-stream", body="data: [DONE]\n\n")
        route.fulfill(status=404, content_type="application/json", body='{"error": {"message": "there is no such model"}}')

    def listed(route):
        reply = route.fetch()
        list = reply.json()
        list["data"][0]["id"] = "new"
        route.fulfill(response=reply, json=list)

    page.route("**/v1/models", listed)
    page.route("**/v1/chat/completions", other_model)
    page.route("**/v1/completions", other_model)
    page.click("#new")
    window.say("Hello")
    expect(window.answer().locator(".problem")).to_contain_text("no such model")
    expect(page.locator("#model-name")).to_have_text("new")
    window.answer().get_by_role("button", name="Try again").click()
    window.rest()
    check(f"another model is found and asked {asked}", asked[0] != "new" and asked[-1] == "new")
    window.close(expected=["502", "503", "429", "404"])


def broken(browser, url, server):
    window = Window(browser, url)
    window.say("Once upon a time")
    expect(window.answer().locator(".text")).not_to_be_empty()
    server.kill()
    server.wait()
    expect(window.answer().locator(".problem")).to_contain_text("The connection broke off")
    part = window.texts()[1]
    window.say("Are you there?")
    expect(window.answer().locator(".problem")).to_contain_text("does not answer")
    check("what came before the connection broke is kept", part and window.texts()[1] == part)
    picture(window.page, "problem")
    window.close(expected=["ERR_", "net::"])


def keys(browser, url):
    window = Window.__new__(Window)
    window.context, window.url, window.complaints, window.asked = browser.new_context(ignore_https_errors=bool(arguments.tls)), url, [], []
    page = window.page = window.context.new_page()
    page.on("pageerror", lambda error: window.complaints.append(str(error)))
    page.goto(url)
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    for key in ("wrong", "right"):
        dialog.get_by_label("API key").fill(key)
        picture(page, "key")
        dialog.get_by_role("button").click()
        if key == "wrong":
            expect(dialog.get_by_text("does not know this key")).to_be_visible()
    expect(page.locator("#model-name")).to_have_text("stories")
    window.say("Once upon a time")
    window.rest()
    check("the page asks for the key, and for another when it is wrong", window.texts()[1])
    page.reload()
    expect(page.locator("#model-name")).to_have_text("stories")
    window.close()


MARKDOWN = {
    "plain *em* **strong** `a*b*` ~~gone~~": "<p>plain <em>em</em> <strong>strong</strong> <code>a*b*</code> <del>gone</del></p>",
    "**a *b* c** and ***both***": "<p><strong>a <em>b</em> c</strong> and <strong><em>both</em></strong></p>",
    "2 * 3 * 4 = snake_case_word": "<p>2 * 3 * 4 = snake_case_word</p>",
    "one\ntwo": "<p>one<br>two</p>",
    "# Title #\ntext": "<h3>Title</h3><p>text</p>",
    "- a\n- b\n  - c\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "1. a\n\n   more\n\n2. b": "<ol><li><p>a</p><p>more</p></li><li><p>b</p></li></ol>",
    "> said\n> > twice": "<blockquote><p>said</p><blockquote><p>twice</p></blockquote></blockquote>",
    "a\n\n---\n\nb": "<p>a</p><hr><p>b</p>",
    "| a | b |\n|---|--:|\n| 1 | `x|y` \\| |": None,
    "see https://example.org/a_b. Or [here](https://example.org (no)": None,
    "<img src=x onerror=alert(1)><script>alert(1)</script>":
        "<p>&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;alert(1)&lt;/script&gt;</p>",
    "[x](javascript:alert(1)) ![p](data:text/html,hi)": "<p><span>x</span> <span>p</span></p>",
    "\\*not\\* \\`code\\`": "<p>*not* `code`</p>",
    "": "",
}


def markdown(browser, url):
    window = Window(browser, url)
    page = window.page
    rendered = """async ([before, text]) => {
        const { render } = await import("/web/markdown.js");
        const box = document.createElement("div");
        if (before !== null) render(box, before);
        render(box, text);
        return box.innerHTML;
    }"""
    for text, expected in MARKDOWN.items():
        got = page.evaluate(rendered, [None, text])
        if expected is not None and got != expected:
            sys.exit(f"FAILED: {text!r}\n  gave   {got}\n  wanted {expected}")
        # as it streams in: every prefix before the whole
        for cut in range(len(text)):
            if page.evaluate(rendered, [text[:cut], text]) != got:
                sys.exit(f"FAILED: {text!r} after its first {cut} characters is another page")
    check(f"Markdown: {len(MARKDOWN)} texts, whole and growing", True)
    table = page.evaluate(rendered, [None, "| a | b |\n|---|--:|\n| 1 | x \\| y |"])
    check("Markdown: a table", '<th class="right">b</th>' in table and '<td class="right">x | y</td>' in table)
    link = page.evaluate(rendered, [None, "see https://example.org/a_b."])
    check("Markdown: a bare address, and the sentence goes on", '>https://example.org/a_b</a>.' in link and "noopener" in link)
    code = page.evaluate(rendered, [None, "```rust\nfn a() {} // <b>\n```\nafter"])
    check("Markdown: code keeps its characters",
          '<span class="hl-k">fn</span> a() {} <span class="hl-c">// &lt;b&gt;</span>' in code and code.endswith("<p>after</p>"))
    hostile = [">" * 20000, "[" * 20000, "*a **b " * 3000, "`" * 9999 + "a", "- " * 5000, "\n".join(" " * i + "- x" for i in range(300)), "|" * 5000 + "\n|-|"]
    slowest = page.evaluate("""async (texts) => {
        const { render } = await import("/web/markdown.js");
        const times = texts.map((text) => {
            const begin = performance.now();
            render(document.createElement("div"), text);
            return performance.now() - begin;
        });
        return Math.max(...times);
    }""", hostile)
    check(f"Markdown: nothing takes long ({slowest:.0f} ms)", slowest < 3000)
    window.close()


SAMPLE = """## A small plan

Ternary weights are **−1, 0 or +1**, so a product is an *addition*, a subtraction or nothing. Three things follow:

1. Memory: `1.58` bits per weight instead of 16
2. Speed, because memory is what decoding waits for
3. Power

| format | bits | used for |
|---|--:|---|
| I2_S | 2.00 | running |
| TQ1_0 | 1.69 | keeping |

```python
def ternary(weights):
    scale = abs(weights).mean()   # absmean
    return (weights / scale).round().clip(-1, 1), scale
```

> Simple things should stay simple.

More in [the book](https://example.org/book).
"""


def look(browser, url):
    """Widths, colours, keyboard and what axe says, with a well-filled page."""
    axe = pathlib.Path(arguments.axe)
    if not axe.exists():
        print(f"SKIPPED: no {axe}: accessibility is not checked (npm install axe-core, --axe FILE)", file=sys.stderr)
    events = [{"choices": [{"delta": {"content": SAMPLE}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]},
              {"choices": [], "usage": {"prompt_tokens": 34, "completion_tokens": 211}}]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    for scheme in ("light", "dark"):
        for name, width, height, touch in (("wide", 1280, 860, False), ("phone", 360, 740, True)):
            # the page's own policy would keep axe out
            window = Window(browser, url, viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=touch,
                            is_mobile=touch, bypass_csp=True, device_scale_factor=2 if touch else 1)
            page = window.page
            page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
            page.fill("#prompt", "Why are ternary models small and fast?\nAnswer shortly.")
            page.click("#send")
            window.rest()
            where = f"{scheme}, {name}"
            picture(page, f"{scheme}-{name}")
            widest = page.evaluate("Math.max(innerWidth, document.documentElement.scrollWidth, document.querySelector('#scroll').scrollWidth)")
            check(f"{where}: nothing is wider than the window ({widest})", widest == width)
            states = {"conversation": lambda: None, "settings": lambda: page.click("#open-settings")}
            if touch:
                def out():
                    page.click("#open-sidebar")
                    expect(page.locator("#close-sidebar")).to_be_focused()
                    page.wait_for_timeout(400)
                    picture(page, f"{scheme}-{name}-list")
                states = {"conversation": lambda: None, "list": out, "settings": lambda: page.click("#open-settings")}
            for state, enter in states.items():
                enter()
                if axe.exists():
                    page.evaluate(axe.read_text() + "; 0")
                    # which headings an answer has is the model's choice
                    result = page.evaluate("axe.run(document, { rules: { 'heading-order': { enabled: false } } })")
                    found = [f"{v['id']}: {v['nodes'][0]['html'][:120]} {v['nodes'][0]['failureSummary'][:300]}" for v in result["violations"]]
                    check(f"{where}, {state}: axe finds nothing {found or ''}", not found)
            check(f"{where}: the settings fit", page.evaluate("(sheet => sheet.scrollWidth <= sheet.clientWidth)(document.querySelector('.sheet'))"))
            picture(page, f"{scheme}-{name}-settings")
            page.keyboard.press("Escape")
            if touch:
                page.click("#close-sidebar")
                expect(page.locator("#open-sidebar")).to_be_focused()
            window.close()

    window = Window(browser, url)
    page = window.page
    page.locator("body").press("Tab")
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(9):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    check(f"the keyboard reaches everything {seen}", {"new", "open-settings", "scroll", "prompt"} <= set(seen))
    page.emulate_media(reduced_motion="reduce")
    window.say("Once upon a time")
    check("nothing moves for people who want it still", page.evaluate("getComputedStyle(document.querySelector('.message .text'), '::before').animationName") == "none")
    window.rest()
    page.evaluate("localStorage.setItem('bitnet.conversation.bad', '{\"id\": 3}'); localStorage.setItem('bitnet.settings', 'no json')")
    page.reload()
    expect(page.locator(".message")).to_have_count(2)
    check("broken entries of the storage are passed over", True)
    window.close()


with sync_playwright() as playwright:
    flags = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic", "--no-first-run"]
    browser = playwright.chromium.launch(
        executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), chromium_sandbox=os.geteuid() != 0, args=flags)
    with serving() as (url, server):
        markdown(browser, url)
        talk(browser, url)
        look(browser, url)
        windows(browser, url)
        proxied(browser, url)
        broken(browser, url, server)
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as file:
        file.write("right\n")
        file.flush()
        with serving("--api-key-file", file.name) as (url, _):
            keys(browser, url)
    browser.close()
print(f"{passed} checks passed")
