//! `GET /openapi.json`: what this server accepts and answers. The document is written by hand; the tests hold it to the code.

use axum::http::header;
use axum::response::IntoResponse;

const DOCUMENT: &str = include_str!("openapi.json");

pub(crate) async fn document() -> impl IntoResponse {
    let document = DOCUMENT.replacen("VERSION", env!("CARGO_PKG_VERSION"), 1);
    ([(header::CONTENT_TYPE, "application/json")], document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    /// What stands between `before` and `after`, everywhere in `text`.
    fn between<'t>(text: &'t str, before: &str, after: char) -> impl Iterator<Item = &'t str> {
        text.split(before).skip(1).filter_map(move |rest| rest.split_once(after).map(|(found, _)| found))
    }

    #[test]
    fn all_routes_are_in_it_and_no_others() {
        let source = include_str!("app.rs");
        let routes: BTreeSet<(&str, &str)> =
            between(source, ".route(\"", '(').filter_map(|route| route.split_once("\", ")).collect();
        assert!(routes.contains(&("/v1/models/{model}", "get")));
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let described = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().into_iter().flat_map(|all| all.keys()).map(|method| (path.as_str(), method.as_str()))
        });
        assert_eq!(described.collect::<BTreeSet<_>>(), routes);
    }

    /// Names of all properties inside of a schema.
    fn properties(document: &Value, schema: &Value, names: &mut BTreeSet<String>) {
        match schema {
            Value::Object(fields) => {
                if let Some(path) = fields.get("$ref").and_then(Value::as_str) {
                    let target = document.pointer(path.strip_prefix('#').expect("a place in the document"));
                    properties(document, target.unwrap_or_else(|| panic!("{path}")), names);
                }
                names.extend(
                    fields.get("properties").and_then(Value::as_object).into_iter().flat_map(|all| all.keys()).cloned(),
                );
                fields.values().for_each(|inner| properties(document, inner, names));
            }
            Value::Array(list) => list.iter().for_each(|inner| properties(document, inner, names)),
            _ => {}
        }
    }

    /// Fields that the code takes from requests; those that it only refuses are not among them.
    fn taken(source: &str) -> BTreeSet<String> {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let methods =
            ["take", "peek", "required", "boolean", "string", "text", "object", "list", "number", "integer", "size"];
        let mut names: BTreeSet<String> = BTreeSet::new();
        for method in methods {
            names.extend(between(source, &format!(".{method}(\""), '"').map(String::from));
        }
        // readers that are told the field
        for before in ["(fields, \"", "(&mut config, \"", "(&mut text, \""] {
            names.extend(between(source, before, '"').map(String::from));
        }
        if let Some((_, table)) = source.split_once("let numbers = [") {
            let table = table.split("];").next().unwrap_or_default();
            names.extend(between(table, "\n        (\"", '"').map(String::from));
        }
        names
    }

    #[test]
    fn all_fields_are_in_it_and_no_others() {
        let document = document();
        let parameters = include_str!("parameters.rs");
        let (calling, conversation) = (include_str!("calling.rs"), include_str!("conversation.rs"));
        let asked = include_str!("asked.rs");
        let tokens = include_str!("tokens.rs");
        let requests: [(&[&str], &[&str]); 6] = [
            (&["ChatRequest"], &[include_str!("chat.rs"), parameters, calling, conversation, asked]),
            (&["CompletionRequest"], &[include_str!("completions.rs"), parameters, asked]),
            (&["ResponseRequest"], &[include_str!("responses.rs"), parameters, calling, conversation, asked]),
            (&["MessageRequest"], &[include_str!("messages.rs"), parameters, calling, conversation, asked]),
            (&["EmbeddingRequest"], &[include_str!("embeddings.rs")]),
            (&["TokenizeRequest", "DetokenizeRequest", "TemplateRequest"], &[tokens, calling, conversation]),
        ];
        let mut all_taken = BTreeSet::new();
        let mut all_described = BTreeSet::new();
        for (schemas, sources) in requests {
            let mut described = BTreeSet::new();
            for schema in schemas {
                properties(&document, &document["components"]["schemas"][schema], &mut described);
            }
            for name in &described {
                // what a form of answers carries and nobody needs
                let known = ["strict", "name"].contains(&name.as_str())
                    || sources.iter().any(|s| s.contains(&format!("\"{name}\"")));
                assert!(known, "{schemas:?} has {name}, which nobody takes");
            }
            // of what all routes share, every route takes a part; of its own source, all
            for name in taken(sources[0]) {
                assert!(described.contains(&name), "{schemas:?} lacks {name}");
            }
            sources.iter().for_each(|source| all_taken.extend(taken(source)));
            all_described.append(&mut described);
        }
        let missing: Vec<_> = all_taken.difference(&all_described).collect();
        assert!(missing.is_empty(), "{missing:?} are taken, but not described");
        assert!(all_taken.len() > 60, "{all_taken:?}");
    }

    #[test]
    fn all_references_lead_somewhere() {
        let document = document();
        let mut names = BTreeSet::new();
        properties(&document, &document["paths"], &mut names);
        assert!(names.contains("finish_reason"));
    }
}
