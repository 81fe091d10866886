//! Parked interpreters: how each runtime is started so that it waits, before it
//! opens its script, for a program. The hooks themselves are in `images/park/`.

use std::collections::BTreeMap;

use crate::{env, runtime::Runtime};

/// The program's file for a parked interpreter whose command line must name one
/// before the program is known. The hook turns to the real one.
const ENTRY_STEM: &str = "/sandbox/main";

/// How to start an interpreter that parks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkPlan {
    /// The command line.
    pub argv: Vec<String>,
    /// What the environment holds beside [`env::base`]: it loads the hook, which
    /// takes it out again.
    pub extra_env: BTreeMap<String, String>,
    /// The path at the end of `argv`. A program with another path can still be
    /// run where [`takes_entry`] says so.
    pub entry_path: String,
}

/// How `interpreter` parks; `None` for runtimes that start plainly.
///
/// Python waits at the end of its `site`, node behind its bootstrap. From the
/// start of a program that prints a number to its first byte and to its exit, on
/// two cores with other work on them, lower quartile in milliseconds:
///
/// | | plain | parked |
/// |---|---|---|
/// | python 3.11 | 7.4 and 9.0 | 0.8 and 3.0 |
/// | node 20, CommonJS | 20 and 24 | 0.1 and 4.6 |
/// | node 20, module | 25 and 30 | 4.2 and 7.8 |
/// | node 24, CommonJS | 23 and 31 | 1.4 and 7.1 |
/// | node 24, module | 23 and 28 | 0.9 and 6.2 |
/// | bun 1.4 | 8 and 9 | 1.2 and 3.4 |
/// | deno 2.9 | 22 and 28 | – |
///
/// Bun would gain, but a program can tell: with anything preloaded, bun runs the
/// entry inside a promise job, so that promise callbacks come before
/// `process.nextTick`; and it has read the colours, `HOME`, `.env` and
/// `bunfig.toml` by then. Deno has loaded the whole graph of its entry before it
/// runs a preloaded module: there is no point to wait at. Bash starts in 2 ms.
#[must_use]
pub fn plan(runtime: Runtime, interpreter: &str) -> Option<ParkPlan> {
    let (name, value) = match runtime {
        Runtime::Python => ("PYTHONPATH", env::PYTHON_HOOKS),
        Runtime::Node => ("NODE_OPTIONS", "--require=/isol8/kit/park/node.cjs"),
        Runtime::Bun | Runtime::Deno | Runtime::Bash => return None,
    };
    let entry_path = format!("{ENTRY_STEM}.{}", runtime.extension());
    Some(ParkPlan {
        argv: runtime.command_line(interpreter, &entry_path),
        extra_env: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        entry_path,
    })
}

/// Whether an interpreter that parked for [`ParkPlan::entry_path`] can run
/// `entry` and look to the program as if it had been started for it.
#[must_use]
pub fn takes_entry(runtime: Runtime, plan: &ParkPlan, entry: &str) -> bool {
    match runtime {
        // The hook answers node's search for its entry.
        Runtime::Node => entry.starts_with('/') && !entry.contains('\0'),
        _ => entry == plan.entry_path,
    }
}

/// Whether an interpreter that parked with `base` can take over a program with
/// the complete environment `env`: nothing differs that it has read already.
#[must_use]
pub fn fits(
    runtime: Runtime,
    base: &BTreeMap<String, String>,
    env: &BTreeMap<String, String>,
) -> bool {
    let read = |name: &String| name == "PATH" || env::is_read_at_start(runtime, name);
    let names = base.keys().chain(env.keys());
    names
        .filter(|name| read(name))
        .all(|name| base.get(name) == env.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_command_line_is_the_plain_one() {
        for runtime in Runtime::ALL {
            let Some(plan) = plan(runtime, "/usr/bin/it") else {
                continue;
            };
            assert_eq!(
                plan.argv,
                runtime.command_line("/usr/bin/it", &plan.entry_path)
            );
            assert!(takes_entry(runtime, &plan, &plan.entry_path));
        }
    }

    #[test]
    fn only_node_takes_another_entry() {
        let python = plan(Runtime::Python, "python3").expect("python parks");
        assert!(!takes_entry(Runtime::Python, &python, "/sandbox/main.txt"));
        let node = plan(Runtime::Node, "node").expect("node parks");
        assert!(takes_entry(Runtime::Node, &node, "/sandbox/main.mjs"));
        assert!(!takes_entry(Runtime::Node, &node, "main.mjs"));
    }

    #[track_caller]
    fn check(runtime: Runtime, changes: &[(&str, Option<&str>)], expected: bool) {
        let base = env::base(&env::Surroundings::alone("/usr/bin"));
        let mut env = base.clone();
        for (name, value) in changes {
            match value {
                Some(value) => env.insert((*name).to_owned(), (*value).to_owned()),
                None => env.remove(*name),
            };
        }
        assert_eq!(
            fits(runtime, &base, &env),
            expected,
            "{runtime} {changes:?}"
        );
    }

    #[test]
    fn what_was_read_at_the_start_must_be_as_it_was() {
        for runtime in [Runtime::Python, Runtime::Node] {
            check(runtime, &[], true);
            check(
                runtime,
                &[("MY_TOKEN", Some("x")), ("HOME", Some("/tmp"))],
                true,
            );
            check(runtime, &[("LANG", Some("C.UTF-8"))], true);
            check(runtime, &[("LANG", Some("de_DE.UTF-8"))], false);
            check(runtime, &[("LC_ALL", Some("C"))], false);
            check(runtime, &[("PATH", Some("/opt"))], false);
            check(runtime, &[("LD_PRELOAD", Some("x.so"))], false);
            check(runtime, &[("LANG", None)], false);
        }
        check(Runtime::Python, &[("PYTHONHASHSEED", Some("0"))], false);
        check(Runtime::Python, &[("PYTHONUNBUFFERED", None)], false);
        check(Runtime::Python, &[("NODE_OPTIONS", Some("--x"))], true);
        check(Runtime::Node, &[("NODE_OPTIONS", Some("--x"))], false);
        check(Runtime::Node, &[("NODE_PATH", Some("/x"))], false);
    }
}
