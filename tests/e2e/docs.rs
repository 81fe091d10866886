//! The pages of the documentation, followed word by word: every command that they
//! show is run, and must print what they show.
//!
//! `page` reads them, `terminal` does what they say. In what is shown, `…` stands
//! for what is not the same twice.

mod page;
mod terminal;

use std::{env, fs, path::Path};

use isol8_e2e::harness::stage::{Engine, Stage};
use serde_json::{Value, json};

use page::Page;
use terminal::Terminal;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a page says of the configuration, in one.
fn config(page: &Page) -> Value {
    let mut all = json!({});
    for text in &page.configs {
        let part: Value = serde_json::from_str(text).expect("a `json` block is JSON");
        for (key, value) in part.as_object().expect("a configuration is an object") {
            all[key] = value.clone();
        }
    }
    all
}

#[test]
fn the_page_of_the_http_api_tells_the_truth() {
    let page = Page::read(&text("docs/http.md"), |_| true);
    Stage::with_config(Engine::Native, config(&page), |stage| {
        Terminal::open(stage).follow(&page);
    });
}

/// The tour as far as it needs neither Docker nor an internet.
#[test]
fn the_tour_tells_the_truth() {
    let sections = [
        "A tour",
        "Sessions",
        "Network",
        "When something is wrong",
        "HTTP",
        "Runs on another machine",
    ];
    let page = Page::read(&text("README.md"), |heading| sections.contains(&heading))
        // It prints the interpreter's version, and a uid.
        .without("isol8 run hello.py")
        // It may be idle for a second by then, or not yet: a copy's turn is given back
        // just behind the copy.
        .without("isol8 session ls")
        // It is about hosts of the internet.
        .without("isol8 run --net filtered --allow 'api\\.example\\.com' api.py");
    Stage::with(Engine::Native, |stage| {
        let terminal = Terminal::open(stage);
        terminal.file("top.mjs", "console.log(await 42);\n");
        terminal.file("data.csv", "a,b\n1,2\n3,4\n");
        terminal.file("notes.txt", "");
        terminal.follow(&page);
        // The tour leaves a session and a kept sandbox.
        stage.isol8(["cleanup", "--force"]).go().ended(0);
    });
}
