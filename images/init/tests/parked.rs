//! A parked and a plain run of any program look the same: each program here
//! runs both ways through the real init, and everything that it can see and
//! that can be seen of it is compared.

mod life;
mod node;
mod python;

use std::{collections::BTreeMap, fs, path::Path};

use isol8_core::{env, park, runtime::Runtime, sandbox::Network};
use isol8_proto::init::{CloseStdin, Exec, to_init};

use crate::rig::{Outcome, Rig, command, other_prefix, plain};

/// A program and what is around it.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// Its file below /sandbox.
    file: &'static str,
    code: &'static str,
    /// Set by the request, beside the base environment.
    env: &'static [(&'static str, &'static str)],
    stdin: Option<&'static str>,
    cwd: &'static str,
    /// In a filtered network, and with authorities of the operator's.
    filtered: bool,
    /// More files below /sandbox.
    files: &'static [(&'static str, &'static str)],
}

/// A program alone.
const fn case(name: &'static str, file: &'static str, code: &'static str) -> Case {
    Case {
        name,
        file,
        code,
        env: &[],
        stdin: None,
        cwd: "/sandbox",
        filtered: false,
        files: &[],
    }
}

/// An interpreter that the jail of the rig can see.
fn interpreter(runtime: Runtime) -> String {
    let prefixes = [
        other_prefix(),
        Some("/usr".to_owned()),
        Some("/usr/local".to_owned()),
    ];
    prefixes
        .into_iter()
        .flatten()
        .map(|prefix| format!("{prefix}/bin/{}", runtime.executable()))
        .find(|path| Path::new(path).exists())
        .unwrap_or_else(|| panic!("these tests need {runtime} below /usr: install it"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Parked,
}

fn run(runtime: Runtime, case: &Case, way: Way) -> Outcome {
    let interpreter = interpreter(runtime);
    let plan = park::plan(runtime, &interpreter).expect("a runtime that parks");
    let mut surroundings = env::Surroundings::alone("/usr/bin:/bin");
    let mut rig = if case.filtered {
        surroundings.network = Network::Filtered;
        surroundings.authorities = Some("/isol8/ca-bundle.crt");
        let authorities = "/etc/ssl/certs/ca-certificates.crt";
        Rig::start_with(&["--ro-bind", authorities, "/isol8/ca-bundle.crt"], &[])
    } else {
        Rig::start()
    };
    let base = env::base(&surroundings);
    let parked = (way == Way::Parked).then(|| {
        let mut env = base.clone();
        env.extend(plan.extra_env.clone());
        words(&plan.argv, &env, "/sandbox")
    });
    assert_eq!(
        rig.prepare(parked),
        way == Way::Parked,
        "{}: does not park",
        case.name
    );
    for (path, text) in case.files {
        rig.put(path, text.as_bytes()).expect("written");
    }
    rig.put(case.file, case.code.as_bytes()).expect("written");

    let entry = format!("/sandbox/{}", case.file);
    assert!(park::takes_entry(runtime, &plan, &entry), "{}", case.name);
    let mut env = base.clone();
    env.extend(
        case.env
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string())),
    );
    assert!(park::fits(runtime, &base, &env), "{}", case.name);
    let program = words(&runtime.command_line(&interpreter, &entry), &env, case.cwd);
    let parked = rig
        .exec(Exec {
            use_parked: way == Way::Parked,
            stdin: case.stdin.is_some(),
            ..plain(program)
        })
        .expect("started");
    assert_eq!(
        parked,
        way == Way::Parked,
        "{}: the parked one was not used",
        case.name
    );
    if let Some(text) = case.stdin {
        rig.send(to_init::Message::Stdin(text.into()));
        rig.send(to_init::Message::CloseStdin(CloseStdin {}));
    }
    rig.outcome()
}

fn words(argv: &[String], env: &BTreeMap<String, String>, cwd: &str) -> isol8_proto::init::Command {
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    command(&argv, env, cwd)
}

/// Compares both ways for every case, and says all that differs.
#[track_caller]
fn check(runtime: Runtime, cases: &[Case]) {
    let mut differences = String::new();
    for case in cases {
        let [plain, parked] = [Way::Plain, Way::Parked].map(|way| {
            let outcome = run(runtime, case, way);
            Outcome {
                stdout: without_addresses(&outcome.stdout),
                stderr: without_addresses(&outcome.stderr),
                ..outcome
            }
        });
        let silent = plain.stdout.is_empty() && plain.stderr.is_empty();
        assert!(!silent, "{}: shows nothing to compare", case.name);
        let fields = [
            ("stdout", &plain.stdout, &parked.stdout),
            ("stderr", &plain.stderr, &parked.stderr),
            (
                "end",
                &format!("{:?}", plain.how),
                &format!("{:?}", parked.how),
            ),
        ];
        for (field, plain, parked) in fields {
            if plain != parked {
                differences += &difference(case.name, field, plain, parked);
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Takes out addresses, which no two processes share: numbers in hex, and those
/// of 14 digits and more, as which threads are named.
fn without_addresses(text: &str) -> String {
    let mut words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let mut result = String::with_capacity(text.len());
    words.by_ref().for_each(|word| {
        let number = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let digits = number.strip_prefix("0x").unwrap_or(number);
        let hex = digits.len() < number.len() && digits.len() >= 8;
        let long = digits.len() >= 14 && digits.bytes().all(|byte| byte.is_ascii_digit());
        result += if hex || long { "ADDRESS" } else { number };
        result += &word[number.len()..];
    });
    result
}

/// The lines that differ, cut to what a person reads.
fn difference(case: &str, field: &str, plain: &str, parked: &str) -> String {
    let mut text = format!("\n== {case}, {field}\n");
    let (a, b): (Vec<_>, Vec<_>) = (plain.lines().collect(), parked.lines().collect());
    for index in 0..a.len().max(b.len()) {
        let (a, b) = (
            a.get(index).unwrap_or(&"<none>"),
            b.get(index).unwrap_or(&"<none>"),
        );
        if a != b {
            let cut = |line: &str| line.chars().take(2000).collect::<String>();
            text += &format!("  plain:  {}\n  parked: {}\n", cut(a), cut(b));
        }
    }
    text
}

#[test]
fn addresses_are_all_that_is_taken_out() {
    let text = "<f at 0x7fc99b01da80>, (139860912750656) 0x41 deadbeefdeadbeef 123";
    let expected = "<f at ADDRESS>, (ADDRESS) 0x41 deadbeefdeadbeef 123";
    assert_eq!(without_addresses(text), expected);
}

#[test]
fn the_hooks_are_where_the_plans_look() {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../park");
    for runtime in Runtime::ALL {
        let Some(plan) = park::plan(runtime, "/usr/bin/it") else {
            continue;
        };
        for value in plan.extra_env.values() {
            let path = value.trim_start_matches("--require=");
            let below = path
                .strip_prefix("/isol8/kit/park/")
                .expect("a path in the kit");
            assert!(fs::exists(kit.join(below)).expect("a look"), "{path}");
        }
    }
}
