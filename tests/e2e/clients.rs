//! gRPC clients in other languages: the same list of tests in Python and Node, the
//! examples, and the page that shows them.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use isol8_e2e::harness::{
    call::Call,
    stage::Stage,
    wait::{seconds, wait_until},
};
use serde_json::{Value, json};

/// What every client is tested for. Each language has exactly these.
const CASES: [&str; 22] = [
    "output comes while the run goes on",
    "bytes and exit code are exact",
    "stdin is live",
    "much stdin comes back",
    "big output fits the default message size",
    "two runs share a connection",
    "secrets are masked",
    "time and memory run out",
    "signals reach the program",
    "a session keeps its state",
    "a session says no",
    "a full queue says when to come back",
    "files go in and out",
    "files stay inside",
    "errors carry their detail",
    "newer clients are understood",
    "the daemon tells about itself",
    "health and reflection answer",
    "a cancelled call ends its run",
    "a deadline ends its run",
    "a killed client ends its run",
    "a client finds the next daemon",
];

const PAGE: &str = "docs/grpc.md";

/// A file of the project.
fn ours(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(ours(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What `.ci/need-clients` has made.
fn installed(path: &str) -> PathBuf {
    let path = ours("target/clients").join(path);
    let path = fs::canonicalize(path.parent().expect("it is in a folder"))
        .map(|folder| folder.join(path.file_name().expect("it has a name")));
    let path = path.ok().filter(|path| path.exists());
    path.expect("gRPC for other languages is missing: run .ci/need-clients, or `make test`")
}

/// A language with a folder of its own on a stage, laid out as the page says.
struct Language<'a> {
    stage: &'a Stage,
    folder: PathBuf,
    interpreter: PathBuf,
}

impl<'a> Language<'a> {
    fn new(stage: &'a Stage, name: &str, interpreter: PathBuf) -> Self {
        let folder = stage.folder().join(name);
        fs::create_dir(&folder).expect("the stage is ours");
        let files = fs::read_dir(ours("tests/clients").join(name)).expect("it has tests");
        for file in files {
            let file = file.expect("it is there");
            if file.file_type().expect("it is there").is_file() {
                fs::copy(file.path(), folder.join(file.file_name())).expect("it is copied");
            }
        }
        let proto = fs::canonicalize(ours("proto")).expect("it is there");
        symlink(proto, folder.join("proto")).expect("the folder is ours");
        Self {
            stage,
            folder,
            interpreter,
        }
    }

    fn python(stage: &'a Stage) -> Self {
        let python = Self::new(stage, "python", installed("python/bin/python"));
        let files = ["admin", "run", "session"].map(|name| format!("proto/isol8/v1/{name}.proto"));
        let generator = ["-m", "grpc_tools.protoc", "-I", "proto"];
        let wishes = ["--python_out=.", "--grpc_python_out=."];
        let call = python.call(generator).args(wishes).args(files);
        call.go().ended(0);
        python
    }

    fn node(stage: &'a Stage) -> Self {
        let node = Self::new(stage, "node", "node".into());
        let modules = installed("node/node_modules");
        symlink(modules, node.folder.join("node_modules")).expect("the folder is ours");
        node
    }

    /// A call of the interpreter in the folder, with the way to the stage.
    fn call<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        let isol8 = self.stage.binary("isol8");
        let mut command = Command::new(&self.interpreter);
        command.env_clear().current_dir(&self.folder);
        command.env("ISOL8", isol8.get_program());
        let variables = isol8.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        Call::new(command).args(args)
    }
}

/// No run, no session, and no sandbox but those that wait for a run.
fn only_the_pool_is_left(stage: &Stage) {
    let sum = |status: &Value, list: &str, names: &[&str]| -> u64 {
        let entries = status[list].as_array().expect("a list").iter();
        let counts = entries.flat_map(|entry| names.iter().map(move |name| entry[name].as_u64()));
        counts.map(|count| count.expect("a number")).sum()
    };
    wait_until("the end of all runs", seconds(60), || {
        let status = stage.status();
        assert_eq!(status["sessions"], json!([]), "{status:#}");
        let waiting = sum(&status, "pools", &["warm", "making"]);
        status["runsInFlight"] == 0
            && status["runsQueued"] == 0
            && sum(&status, "engines", &["sandboxes"]) == waiting
    });
}

both_engines! {
    /// `tests/clients/python`, with grpcio's asyncio.
    fn python_passes_the_suite(stage: &Stage) {
        let modules = ["test_runs", "test_sessions", "test_errors", "test_daemon", "test_endings"];
        let python = Language::python(stage);
        let ran = python.call(["-m", "unittest", "-v"]).args(modules).go();
        let told = ran.err();
        assert!(ran.code() == 0, "{told}");
        for case in CASES {
            let name = format!("test_{} (", case.replace(' ', "_"));
            assert_eq!(told.matches(&name).count(), 1, "`{case}` once in {told}");
        }
        assert!(told.contains(&format!("\nRan {} tests in ", CASES.len())), "{told}");
        assert!(told.contains("\n\nOK\n"), "{told}");
        only_the_pool_is_left(stage);
        stage.stop_whoever_answers();
    }

    /// `tests/clients/node`, with @grpc/grpc-js.
    fn node_passes_the_suite(stage: &Stage) {
        let ran = Language::node(stage).call(["--test-reporter=tap", "conformance.mjs"]).go();
        let told = ran.out();
        assert!(ran.code() == 0, "{told}{}", ran.err());
        for (index, case) in CASES.iter().enumerate() {
            let line = format!("\nok {} - {case}\n", index + 1);
            assert!(told.contains(&line), "`{case}` in {told}");
        }
        assert!(told.contains(&format!("\n# pass {}\n", CASES.len())), "{told}");
        assert!(told.contains(&format!("\n# tests {}\n", CASES.len())), "{told}");
        only_the_pool_is_left(stage);
        stage.stop_whoever_answers();
    }

    /// The examples print what the page says, and a failure with its hint.
    fn the_examples_do_what_the_page_says(stage: &Stage) {
        let printed = "so far: 20\nso far: 40\nso far: 42\nVERDICT_EXITED 0\n";
        assert!(read(PAGE).contains(&format!("\n```text\n{printed}```\n")));
        let examples = [(Language::python(stage), "example.py"), (Language::node(stage), "example.mjs")];
        for (language, example) in &examples {
            let ran = language.call([example]).go();
            assert_eq!((ran.ok(), ran.err()), (printed.to_owned(), String::new()));
        }
        only_the_pool_is_left(stage);
        stage.stop_daemon();
        for (language, example) in &examples {
            let ran = language.call([example]).go();
            ran.ended(1).says("error: ");
        }
    }
}

/// The pieces of a page between fences of this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let pieces = page.split(fence.as_str()).skip(1);
    let ends = pieces.map(|piece| piece.split_once("```\n").expect("each block ends").0);
    ends.collect()
}

/// All code in these languages that a page shows is a file that the tests above run.
#[test]
fn the_pages_show_what_is_run() {
    let python = read("tests/clients/python/example.py");
    let node = read("tests/clients/node/example.mjs");
    let page = read(PAGE);
    assert_eq!(blocks(&page, "python"), [&python]);
    assert_eq!(blocks(&page, "js"), [&node]);
    for shown in blocks(&read("README.md"), "python") {
        assert!(!shown.contains("grpc") || shown == python, "{shown}");
    }
}

/// The table of kinds has each that the daemon can send, and no other.
#[test]
fn the_page_has_every_kind_of_failure() {
    let source = read("isol8d/core/src/failure.rs");
    let arms = source
        .lines()
        .filter(|line| line.trim_start().starts_with("Self::"));
    let mut kinds: Vec<_> = arms.filter_map(|line| line.split('"').nth(1)).collect();
    let page = read(PAGE);
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    let mut shown: Vec<_> = rows.map(|(kind, _)| kind).collect();
    kinds.sort_unstable();
    shown.sort_unstable();
    assert!(kinds.contains(&"at_capacity"), "{kinds:?}");
    assert_eq!(shown, kinds);
}
