//! Chat templates against Jinja2 as transformers configures it (`crossval/render_templates.py`), and against attack.

use bitnet_models::catalogue::{BITNET_2B4T_TEMPLATE, ENTRIES};
use bitnet_models::{ChatTemplate, Message};
use serde_json::{Map, Value};
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn templates_render_as_in_transformers() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/chat-templates");
    if !directory.exists() {
        eprintln!("SKIPPED: {} is absent", directory.display());
        return;
    }
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/chat-templates.json")).unwrap();
    assert_eq!(cases.len(), 66);
    for case in &cases {
        let source = std::fs::read_to_string(directory.join(case["template"].as_str().unwrap())).unwrap();
        let template = ChatTemplate::new(&source, "<bos>", "<eos>").unwrap();
        let extra = case["extra"].as_object().unwrap().clone();
        let got = template.render_with(&case["messages"], case["generation_prompt"] == true, extra);
        match (got, case["expected"].as_str()) {
            (Ok(got), Some(expected)) => assert_eq!(got, expected, "{case}"),
            (Err(_), None) => {}
            (got, _) => panic!("{got:?}\n{case}"),
        }
    }
}

/// A thousand turns, 1.6 MB: far more than any context, and within the bounds.
#[test]
fn long_conversations_are_within_the_bounds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/chat-templates");
    if !directory.exists() {
        eprintln!("SKIPPED: {} is absent", directory.display());
        return;
    }
    let mut list = vec![("system", "Be brief.")];
    let content = "some words ".repeat(150);
    list.extend((0..1000).map(|i| (["user", "assistant"][i % 2], content.as_str())));
    list.push(("user", "Bye"));
    let mut count = 0;
    for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let template = ChatTemplate::new(&std::fs::read_to_string(&path).unwrap(), "<bos>", "<eos>").unwrap();
        let start = Instant::now();
        for list in [&list[..], &list[1..]] {
            match template.render(&messages(list), true) {
                Ok(text) => assert!(text.len() > 500 * 1600, "{}: {} bytes", path.display(), text.len()),
                Err(error) => assert!(!error.to_string().contains("limit"), "{}: {error}", path.display()),
            }
        }
        eprintln!("{}: {:?}", path.display(), start.elapsed());
        count += 1;
    }
    assert!(count > 5, "{count} templates");
}

fn messages(list: &[(&str, &str)]) -> Vec<Message> {
    list.iter().map(|&(role, content)| Message { role: role.into(), content: content.into() }).collect()
}

fn render(template: &str, list: &[(&str, &str)]) -> Result<String, String> {
    let template = ChatTemplate::new(template, "<|begin_of_text|>", "<|end_of_text|>").map_err(|e| e.to_string())?;
    template.render(&messages(list), true).map_err(|e| e.to_string())
}

/// formats.md §5.5.
#[test]
fn bitnet_2b4t() {
    let chat = [("system", "Be kind."), ("user", " Hi "), ("assistant", "Hello!"), ("user", "Bye")];
    assert_eq!(
        render(BITNET_2B4T_TEMPLATE, &chat).unwrap(),
        "<|begin_of_text|>System: Be kind.<|eot_id|>User: Hi<|eot_id|>Assistant: Hello!<|eot_id|>User: Bye<|eot_id|>\
         Assistant: "
    );
}

#[test]
fn extensions_of_transformers() {
    let one = |source| render(source, &[("user", "x")]);
    assert_eq!(one("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}").unwrap(), "02");
    assert_eq!(one("{{ ' a '.strip() ~ 'a,b'.split(',')[-1] ~ messages[0].items() | list | length }}").unwrap(), "ab2");
    assert_eq!(
        one("{{ {'b': [1, {}], 'a': '<é>'} | tojson(indent=2) }}").unwrap(),
        "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"<é>\"\n}"
    );
    let year = one("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2025, "{year}");
    assert!(one("{{ raise_exception('only cats') }}").unwrap_err().contains("only cats"));
    assert!(one("{{ messages[0].nothing.deeper }}").unwrap_err().contains("undefined"));
    assert_eq!(one("{{ nothing }}{% if nothing %}a{% endif %}").unwrap(), "");
    assert_eq!(one("{{ 'a\\nb' | indent(2) }}{{ 'a\\nb' | indent(width=1, first=true) }}").unwrap(), "a\n  b a\n b");
    assert!(ChatTemplate::new("{% for %}", "", "").is_err());
    // Line ends as Jinja's lexer takes them, the tag for training, and `None` for what is not given.
    assert_eq!(one("{{ messages[0].content }}\r\n{% if true %}\r\na{% endif %}\r\nb\rc").unwrap(), "x\nab\nc");
    assert_eq!(one("{%- generation -%} y {% endgeneration %}{%if true%}z{%endif%}").unwrap(), "y z");
    assert_eq!(one("{% if tools is not none %}a{% endif %}{% if documents is none %}b{% endif %}").unwrap(), "b");
    assert_eq!(
        one("{% if tools is iterable and tools | length > 0 %}a{% endif %}{{ [] is iterable }}").unwrap(),
        "True"
    );
}

/// The branches of tiiuae/Falcon3-7B-Instruct for user and assistant.
#[test]
fn falcon3() {
    let known = ENTRIES.iter().find(|entry| entry.name == "Falcon3-7B-1.58bit").unwrap();
    let template = ChatTemplate::new(known.chat_template.unwrap(), "", "<|endoftext|>").unwrap();
    let chat = messages(&[("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")]);
    let text = "<|user|>\nHi\n<|assistant|>\nYo<|endoftext|>\n<|user|>\nBye\n";
    assert_eq!(template.render(&chat, true).unwrap(), format!("{text}<|assistant|>\n"));
    assert_eq!(template.render(&chat[..2], false).unwrap(), "<|user|>\nHi\n<|assistant|>\nYo<|endoftext|>");
}

/// What costs one instruction to print counts like any other text.
#[test]
fn short_texts_and_numbers_count() {
    let repeated = |what: &str, times: usize| {
        let source =
            format!("{{% for i in range({times}) %}}{{% for j in range(100) %}}{what}{{% endfor %}}{{% endfor %}}");
        render(&source, &[])
    };
    let short = "x".repeat(60);
    assert_eq!(repeated(&short, 100).unwrap().len(), 100 * 100 * 60);
    assert_eq!(repeated("{{ 1e308 }}", 100).unwrap().len(), 100 * 100 * 311);
    for (what, times) in [(short.repeat(10).as_str(), 600), ("{{ 1e308 }}", 1500)] {
        let error = repeated(what, times).unwrap_err();
        assert!(error.contains("33554432 bytes"), "{error}");
    }
}

/// An expression, often, over two texts of ten million letters.
fn over_a_text(expression: &str) -> String {
    let texts = "{% set x = 'a' * 10000000 %}{% set y = 'a' * 9999999 ~ 'b' %}";
    format!("{texts}{{% for i in range(90000) %}}{{% if {expression} %}}{{% endif %}}{{% endfor %}}")
}

#[test]
fn hostile_templates_end_soon_with_an_error() {
    let hostile = [
        // time
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for x in range(10000000000) %}{% endfor %}",
        "{% include 'chat' %}",
        "{% extends 'chat' %}",
        // time over a large text
        &over_a_text("x.count('b')"),
        &over_a_text("'b' in x"),
        &over_a_text("x == y"),
        &over_a_text("x < y"),
        &over_a_text("x | length"),
        &over_a_text("x is upper"),
        &over_a_text("x is eq(y)"),
        &over_a_text("x[i + 9000000:i + 9000001]"),
        &over_a_text("x[i + 9000000]"),
        &over_a_text("x[-1]"),
        &over_a_text("(x[0:9999] | list | select('in', x) | list)"),
        &over_a_text("([''] * 9999) | map('default', x) | select('eq', y) | first"),
        "{% set x = ['a'] * 400000 %}{{ x | sum(start='') }}",
        "{% set x = ['a'] * 400000 %}{% for i in range(9999) %}{% if 'b' in x %}{% endif %}{% endfor %}",
        "{% set x = ['a'] * 400000 %}{% for i in range(9999) %}{% if x == x %}{% endif %}{% endfor %}",
        "{% set x = ['a'] * 400000 %}{% for i in range(9999) %}{{ x.count('b') }}{% endfor %}",
        // memory
        "{{ 'x' * 100000000000 }}",
        "{{ 'x' * 99000000 }}",
        "{% for a in range(99999) %}{{ bos_token * 1000 }}{% endfor %}",
        &format!("{{% set x = bos_token %}}{}", "{% set x = x ~ x %}".repeat(50)),
        &format!("{{% set x = bos_token %}}{}", "{% set x = x + x %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x = x.replace('a', x) %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x = x | replace('a', x) %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x = x | join(x) %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x = x.join(x) %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x = '%s%s' | format(x, x) %}".repeat(50)),
        &format!("{{% set x = 'aa' %}}{}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(50)),
        &format!("{{% set x = [1] %}}{}{{{{ x }}}}", "{% set x = x + x %}".repeat(50)),
        &format!("{{% set x = [1] %}}{}{{{{ x }}}}", "{% set x = [x, x] %}".repeat(50)),
        &format!("{{% set x = [1] %}}{}{{{{ x }}}}", "{% set x = {'a': x, 'b': x} %}".repeat(50)),
        &format!("{{% set x %}}{{% for i in range(99999) %}}{}{{% endfor %}}{{% endset %}}", "text ".repeat(9999)),
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [range(9999) | list] %}{% endfor %}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '{:99999999999}'.format(1) }}",
        "{{ 'a' | indent(99999999999, first=true) }}",
        "{{ 'a' | indent(width=99999999999, first=true) }}",
        "{{ [0] * 99999999 | list }}",
        // files
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{{ ''.__class__.__mro__ }}{{ raise_exception('reached') }}",
    ];
    for source in hostile {
        let start = Instant::now();
        let result = render(source, &[("user", "x")]);
        assert!(result.is_err(), "{source}: {} bytes", result.unwrap_or_default().len());
        let (shown, spent) = (&source[..source.len().min(100)], start.elapsed());
        assert!(spent < Duration::from_secs(5), "{shown}: {spent:?}");
    }
}

/// The compiler must not run out of stack on deep or long expressions; whether it accepts them does not matter.
#[test]
fn deep_templates_do_not_crash() {
    for n in [100, 240, 480, 990, 30_000] {
        deep(n);
    }
}

fn deep(n: usize) {
    for source in [
        format!("{{{{ {}1 }}}}", "1 ~ ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 + ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 and ".repeat(n)),
        format!("{{{{ {}1 }}}}", "1 < ".repeat(n)),
        format!("{{{{ {}1 }}}}", "not ".repeat(n)),
        format!("{{{{ {}1 }}}}", "-".repeat(n)),
        format!("{{{{ 1{} }}}}", " ** 2".repeat(n)),
        format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
        format!("{{{{ {}{} }}}}", "[".repeat(n), "]".repeat(n)),
        format!("{{{{ x{} }}}}", ".a".repeat(n)),
        format!("{{{{ x{} }}}}", "[0]".repeat(n)),
        format!("{{{{ x{} }}}}", "()".repeat(n)),
        format!("{{{{ 1{} }}}}", "|string".repeat(n)),
        format!("{{{{ 1{} }}}}", " if 1 else 2".repeat(n)),
        format!("{}{}", "{% if 1 %}".repeat(n), "{% endif %}".repeat(n)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n)),
        format!("{}{}", "{% for i in [1] %}".repeat(n), "{% endfor %}".repeat(n)),
        format!("{{% set x = [1] %}}{}{{{{ x | length }}}}", "{% set x = x + [1] %}".repeat(n)),
    ] {
        let _ = render(&source, &[("user", "x")]);
    }
}

#[test]
fn extra_variables_and_message_fields_reach_the_template() {
    let template = ChatTemplate::new("{{ think }}{{ messages[0].name }}{{ messages[0].role }}", "", "").unwrap();
    let extra = Map::from_iter([("think".to_string(), Value::from("yes "))]);
    let messages = serde_json::json!([{"role": "user", "name": "Ann "}]);
    assert_eq!(template.render_with(&messages, false, extra).unwrap(), "yes Ann user");
}
