//! The page at `/`: whole, checkable by the browser, and asking nobody but this server.

use crate::client::{Running, engine, get, options, receive, send, shared};
use bitnet_server::ServerOptions;
use std::path::Path;

/// Names of the files of the page, from the directory and not from the server's list.
fn names() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    let entries = std::fs::read_dir(directory).expect("web/");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

/// What stands between quotes after each `marker`.
fn quoted<'t>(text: &'t str, marker: &str) -> Vec<&'t str> {
    text.split(marker).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_file_is_served_with_its_type_and_the_policy() {
    for name in names() {
        let path = if name == "index.html" { "/".into() } else { format!("/web/{name}") };
        let reply = get(shared(), &path);
        assert_eq!(reply.status, 200, "{path}");
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            other => panic!("{other:?}"),
        };
        assert_eq!(reply.header("content-type"), Some(kind), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(get(shared(), "/web/index.html").status, 404);
    assert_eq!(get(shared(), "/web/../Cargo.toml").status, 404);
}

#[test]
fn the_page_names_only_files_that_are_there_and_nobody_else() {
    let names = names();
    let page = get(shared(), "/");
    let mut named: Vec<String> = Vec::new();
    for marker in ["src=\"", "rel=\"stylesheet\" href=\"", "rel=\"icon\" href=\""] {
        named.extend(quoted(page.text(), marker).iter().map(|name| (*name).to_owned()));
    }
    for name in names.iter().filter(|name| name.ends_with(".js")) {
        let script = get(shared(), &format!("/web/{name}"));
        let imports = quoted(script.text(), " from \"./").into_iter().map(|import| format!("web/{import}"));
        named.extend(imports);
        assert!(!script.text().contains("innerHTML"), "{name}");
    }
    assert!(named.len() > names.len(), "{named:?}");
    for name in &named {
        let file = name.strip_prefix("web/").unwrap_or_else(|| panic!("{name} is not relative"));
        assert!(names.iter().any(|own| own == file), "{name} is not there");
    }
    // a namespace is a name, not an address
    let foreign = |text: &str| text.replace("http://www.w3.org/2000/svg", "").contains("://");
    assert!(!foreign(page.text()) && !foreign(get(shared(), "/web/style.css").text()));
    assert!(!page.text().contains("style=\"") && !page.text().contains("onclick"), "the policy would block it");
}

#[test]
fn a_known_file_is_not_sent_again() {
    let tag = get(shared(), "/web/app.js").header("etag").expect("a tag").to_owned();
    for list in [tag.clone(), format!("\"other\", W/{tag}"), "*".into()] {
        let reply = receive(send(shared(), "GET", "/web/app.js", &[("If-None-Match", &list)], b""));
        assert_eq!((reply.status, reply.body.len(), reply.header("etag")), (304, 0, Some(tag.as_str())), "{list}");
    }
    assert_ne!(get(shared(), "/web/api.js").header("etag"), Some(tag.as_str()));
    assert_eq!(receive(send(shared(), "GET", "/web/app.js", &[("If-None-Match", "\"old\"")], b"")).status, 200);
}

#[test]
fn the_page_opens_without_a_key_and_the_model_does_not() {
    let options = ServerOptions { api_keys: vec!["secret".into()], ..options() };
    let server = Running::start(engine(1, 20), options);
    assert_eq!(get(server.address, "/").status, 200);
    assert_eq!(get(server.address, "/web/app.js").status, 200);
    assert_eq!(get(server.address, "/v1/models").status, 401);
    assert_eq!(receive(send(server.address, "POST", "/", &[], b"")).status, 405);
}
