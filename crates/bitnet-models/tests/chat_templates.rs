//! Chat templates against Jinja2 as transformers configures it (`crossval/render_templates.py`), and against attack.

use bitnet_models::{ChatTemplate, Message, catalogue::BITNET_2B4T_TEMPLATE};
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
    assert!(ChatTemplate::new("{% for %}", "", "").is_err());
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
        // memory
        "{{ 'x' * 100000000000 }}",
        "{{ 'x' * 99000000 }}",
        "{% for a in range(99999) %}{{ bos_token * 1000 }}{% endfor %}",
        // files
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{{ ''.__class__.__mro__ }}{{ raise_exception('reached') }}",
    ];
    for source in hostile {
        let start = Instant::now();
        let result = render(source, &[("user", "x")]);
        assert!(result.is_err(), "{source}: {} bytes", result.unwrap().len());
        assert!(start.elapsed() < Duration::from_secs(5), "{source}: {:?}", start.elapsed());
    }
}

#[test]
fn extra_variables_and_message_fields_reach_the_template() {
    let template = ChatTemplate::new("{{ think }}{{ messages[0].name }}{{ messages[0].role }}", "", "").unwrap();
    let extra = Map::from_iter([("think".to_string(), Value::from("yes "))]);
    let messages = serde_json::json!([{"role": "user", "name": "Ann "}]);
    assert_eq!(template.render_with(&messages, false, extra).unwrap(), "yes Ann user");
}
