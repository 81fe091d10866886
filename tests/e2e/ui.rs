//! The gateway's page at `/ui`, in a browser: `tests/ui` drives Chromium.
//!
//! One engine is enough: what differs between engines never reaches the page.

use std::{path::Path, process::Command};

use isol8_e2e::harness::{
    call::Call,
    gateway::{Gateway, KEY},
    stage::{Engine, Stage},
};
use serde_json::json;

const CHROMIUM: &str = "/usr/bin/chromium";

/// Fails in words where there is no browser: a test that is passed over proves
/// nothing.
#[track_caller]
fn require(path: &Path) {
    let path = path.display();
    assert!(
        std::fs::exists(path.to_string()).is_ok_and(|there| there),
        "no `{path}`: run .ci/need-browser, or `make test`"
    );
}

/// Runs, streams, stops, hostile output, sessions and figures, as a person sees
/// them.
#[test]
fn the_page_works_in_a_browser() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let driver = root.join("../target/browser");
    require(Path::new(CHROMIUM));
    require(&driver.join("node_modules/playwright-core"));
    // The page's own bound is below what the daemon would pass on here.
    let more = json!({"defaults": {"maxOutputSize": 64 << 20}});
    Stage::with_config(Engine::Native, more, |stage| {
        let gateway = Gateway::start(stage);
        // The browser's own folders go with the stage.
        let home = stage.folder().join("browser");
        std::fs::create_dir(&home).expect("the stage's folder is ours");
        let mut node = Command::new("node");
        node.arg("--test-reporter=spec")
            .arg(root.join("ui/ui.mjs"))
            .env("ISOL8_UI_ORIGIN", format!("http://{}", gateway.address()))
            .env("ISOL8_UI_KEY", KEY)
            .env("ISOL8_UI_BROWSER", &driver)
            .env("HOME", &home)
            .env("TMPDIR", &home);
        let ran = Call::new(node).go();
        assert_eq!(ran.code(), 0, "{}\n{}", ran.out(), ran.err());
        // The page has removed every session it made, and stopped every run.
        gateway.until_idle(stage);
        gateway.stop();
    });
}
