//! What installs packages: the command lines of each runtime's own manager.
//!
//! Every step is run by init in a sandbox, without a shell, with the base
//! environment and what is written here: nothing of what a run was given.

use std::collections::BTreeMap;

use isol8_core::{env::HOME, package::Package, runtime::Runtime, sandbox::Network};
use isol8_engine::Interpreter;

use super::apt::{self, Apt};

/// Part of the name of every layer: to be raised when a recipe changes what it
/// leaves in its folder.
pub(crate) const VERSION: u32 = 1;

/// Where installers keep what only they need: programs can be started from here,
/// which /tmp does not allow.
pub(crate) const SCRATCH: &str = "/sandbox/.isol8-install";

/// What it means when a step does not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Must {
    /// The packages could not be installed.
    Succeed,
    /// There is no installer.
    BeThere,
    /// Nothing.
    Try,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) must: Must,
}

impl Step {
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

/// What is to be installed, and with what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) runtime: Runtime,
    pub(crate) interpreter: &'a Interpreter,
    pub(crate) network: Network,
    pub(crate) packages: &'a [Package],
    /// The result is mounted read-only later.
    pub(crate) for_layer: bool,
    /// The interpreter is the host's, and so is what stands beside it: that may
    /// change while the layer stays.
    pub(crate) of_host: bool,
    /// For packages of the system.
    pub(crate) apt: Option<&'a Apt>,
}

impl Order<'_> {
    /// A command in the environment that all installers get.
    pub(crate) fn step<T: AsRef<str>>(
        &self,
        must: Must,
        argv: impl IntoIterator<Item = T>,
    ) -> Step {
        let step = Step {
            argv: argv
                .into_iter()
                .map(|part| part.as_ref().to_owned())
                .collect(),
            env: self.interpreter.environment(self.network),
            must,
        };
        let step = match &self.interpreter.authorities {
            // A host's npm may be told in its own files to trust another file,
            // which is not in a sandbox, and then trusts nobody.
            Some(file) => step.with("npm_config_cafile", file),
            None => step,
        };
        step.with("TMPDIR", format!("{SCRATCH}/tmp"))
            // Escape sequences are for a terminal, which nobody has here.
            .with("NO_COLOR", "1")
            .with("npm_config_cache", format!("{SCRATCH}/npm"))
            .with("npm_config_update_notifier", "false")
            .with("npm_config_logs_max", "0")
            .with("npm_config_color", "false")
            .with("BUN_INSTALL_CACHE_DIR", format!("{SCRATCH}/bun"))
            .with("BUN_TMPDIR", format!("{SCRATCH}/tmp"))
            .with("DENO_NO_UPDATE_CHECK", "1")
            // By the environment: pips that do not know it pass over it. A host
            // whose system manages python's packages says no to pip otherwise,
            // and the user scheme below /sandbox is not the system's.
            .with("PIP_BREAK_SYSTEM_PACKAGES", "1")
            .with("PIP_RETRIES", self.pip_retries())
    }

    /// To pip a host that the filter refuses looks like one that is down for a
    /// moment, for which it would wait longer and longer.
    const fn pip_retries(&self) -> &'static str {
        match self.network {
            Network::None => "0",
            Network::Filtered => "1",
            Network::Host => "5",
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        self.packages
            .iter()
            .map(|package| package.as_str().to_owned())
    }

    /// A command line with the packages at its end.
    fn command(&self, fixed: &[&str]) -> Vec<String> {
        let fixed = fixed.iter().map(|part| (*part).to_owned());
        fixed.chain(self.names()).collect()
    }

    /// Makes the folders that the other steps need, and the one that is fetched:
    /// an installer to which all is there already makes none.
    pub(crate) fn prepare(&self) -> Step {
        if self.apt.is_some() {
            return Apt::prepare(self);
        }
        let folder = self.runtime.install_folder();
        let folder = folder.map(|folder| format!("{HOME}/{folder}"));
        let line = ["mkdir", "-p", "--"].map(str::to_owned);
        let scratch = format!("{SCRATCH}/tmp");
        let line = line.into_iter().chain([scratch]).chain(folder);
        self.step(Must::Succeed, line)
    }

    /// What is fetched for a layer, below /sandbox.
    pub(crate) fn result(&self) -> &'static str {
        self.runtime.install_folder().unwrap_or(apt::TREE)
    }

    /// Installs.
    pub(crate) fn install(&self) -> Vec<Step> {
        let program = self.interpreter.program.as_str();
        match self.runtime {
            Runtime::Python => self.python(program),
            Runtime::Node => vec![self.step(
                Must::Succeed,
                self.command(&[
                    "npm",
                    "install",
                    "--no-audit",
                    "--no-fund",
                    "--no-save",
                    "--no-package-lock",
                    "--no-progress",
                    "--",
                ]),
            )],
            Runtime::Bun => {
                let line = self.command(&[program, "add", "--no-save", "--no-progress", "--"]);
                vec![self.step(Must::Succeed, line)]
            }
            Runtime::Deno => {
                vec![self.step(Must::Succeed, self.command(&self.deno_cache()))]
            }
            Runtime::Bash => Apt::install(self),
        }
    }

    /// Deno takes modules of a few hosts that it knows. Which ones it can reach
    /// is the filter's to say; the flag is as new as that list.
    pub(crate) fn deno_cache(&self) -> Vec<&str> {
        let program = self.interpreter.program.as_str();
        let of_a_host = self.packages.iter().any(|package| package.host().is_some());
        let import = of_a_host.then_some("--allow-import");
        [Some(program), Some("cache"), import, Some("--")]
            .into_iter()
            .flatten()
            .collect()
    }

    fn python(&self, program: &str) -> Vec<Step> {
        let mut line = vec![program, "-m", "pip", "install", "--user"];
        line.extend([
            "--no-input",
            "--disable-pip-version-check",
            "--no-cache-dir",
            "--no-warn-script-location",
            "--progress-bar",
            "off",
        ]);
        if self.for_layer {
            line.push("--no-compile");
        }
        if self.for_layer && self.of_host {
            line.push("--ignore-installed");
        }
        line.push("--");
        let mut steps = vec![
            self.step(Must::BeThere, [program, "-c", "import pip"]),
            self.step(Must::Succeed, self.command(&line)),
        ];
        if self.for_layer {
            // The usual kind names the time of the source, which a copy does not
            // have; a read-only layer needs no check at all.
            let folder = format!("{HOME}/.local");
            let compile = [
                "-m",
                "compileall",
                "-qq",
                "--invalidation-mode",
                "unchecked-hash",
            ];
            let line = [&[program], &compile[..], &["--", &folder]].concat();
            steps.push(self.step(Must::Try, line));
        }
        steps
    }

    /// Removes what only the installer needed.
    pub(crate) fn tidy(&self) -> Step {
        let mut line = vec!["rm", "-rf", "--", SCRATCH];
        // Bun writes one, and a program's modules are of the type that it names.
        line.extend(match self.runtime {
            Runtime::Bun => &[
                "/sandbox/.bun",
                "/sandbox/package.json",
                "/sandbox/bun.lock",
            ][..],
            Runtime::Node => &["/sandbox/.npm"],
            _ => &[],
        });
        self.step(Must::Try, line)
    }
}

/// How to come by the installer, for a person.
pub(crate) const fn how_to_get(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Python => {
            "install pip for this python (on Debian: `apt install python3-pip`), or use `--engine docker`"
        }
        Runtime::Node => "install npm beside this node, or use `--engine docker`",
        Runtime::Bun | Runtime::Deno | Runtime::Bash => "use `--engine docker`",
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(runtime: Runtime, packages: &[&str], for_layer: bool, expected: &Expect) {
        let interpreter = Interpreter {
            program: format!("/opt/{}", runtime.executable()),
            path: "/usr/bin".to_owned(),
            parkable: false,
            authorities: None,
            deno_dir: None,
        };
        let packages = Package::parse_all(runtime, packages).expect("good packages");
        let order = Order {
            runtime,
            interpreter: &interpreter,
            network: Network::Filtered,
            packages: &packages,
            for_layer,
            of_host: for_layer,
            apt: None,
        };
        let steps = order.install();
        let all = [order.prepare()]
            .into_iter()
            .chain(steps)
            .chain([order.tidy()]);
        let shown: String = all
            .map(|step| {
                assert_eq!(step.env["TMPDIR"], "/sandbox/.isol8-install/tmp");
                assert_eq!(step.env["HTTPS_PROXY"], "http://127.0.0.1:8118");
                format!("{:?} {}\n", step.must, step.argv.join(" "))
            })
            .collect();
        expected.assert_eq(&shown);
    }

    #[test]
    fn python_goes_into_the_user_scheme() {
        check(
            Runtime::Python,
            &["six", "numpy>=2"],
            false,
            &expect![[r#"
                Succeed mkdir -p -- /sandbox/.isol8-install/tmp /sandbox/.local
                BeThere /opt/python3 -c import pip
                Succeed /opt/python3 -m pip install --user --no-input --disable-pip-version-check --no-cache-dir --no-warn-script-location --progress-bar off -- numpy>=2 six
                Try rm -rf -- /sandbox/.isol8-install
            "#]],
        );
        check(
            Runtime::Python,
            &["six"],
            true,
            &expect![[r#"
                Succeed mkdir -p -- /sandbox/.isol8-install/tmp /sandbox/.local
                BeThere /opt/python3 -c import pip
                Succeed /opt/python3 -m pip install --user --no-input --disable-pip-version-check --no-cache-dir --no-warn-script-location --progress-bar off --no-compile --ignore-installed -- six
                Try /opt/python3 -m compileall -qq --invalidation-mode unchecked-hash -- /sandbox/.local
                Try rm -rf -- /sandbox/.isol8-install
            "#]],
        );
    }

    #[test]
    fn the_others_leave_no_file_of_a_project() {
        check(
            Runtime::Node,
            &["left-pad", "@scope/name@^1"],
            true,
            &expect![[r#"
                Succeed mkdir -p -- /sandbox/.isol8-install/tmp /sandbox/node_modules
                Succeed npm install --no-audit --no-fund --no-save --no-package-lock --no-progress -- @scope/name@^1 left-pad
                Try rm -rf -- /sandbox/.isol8-install /sandbox/.npm
            "#]],
        );
        check(
            Runtime::Bun,
            &["left-pad"],
            true,
            &expect![[r#"
                Succeed mkdir -p -- /sandbox/.isol8-install/tmp /sandbox/node_modules
                Succeed /opt/bun add --no-save --no-progress -- left-pad
                Try rm -rf -- /sandbox/.isol8-install /sandbox/.bun /sandbox/package.json /sandbox/bun.lock
            "#]],
        );
        check(
            Runtime::Deno,
            &["npm:left-pad", "jsr:@std/path"],
            true,
            &expect![[r#"
                Succeed mkdir -p -- /sandbox/.isol8-install/tmp /sandbox/.deno
                Succeed /opt/deno cache -- jsr:@std/path npm:left-pad
                Try rm -rf -- /sandbox/.isol8-install
            "#]],
        );
    }

    #[test]
    fn the_environment_is_the_base_and_the_recipes_own() {
        let interpreter = Interpreter {
            program: "python3".to_owned(),
            path: String::new(),
            parkable: false,
            authorities: None,
            deno_dir: None,
        };
        let order = Order {
            runtime: Runtime::Python,
            interpreter: &interpreter,
            network: Network::None,
            packages: &[],
            for_layer: false,
            of_host: false,
            apt: None,
        };
        let own = order
            .prepare()
            .env
            .into_keys()
            .filter(|name| !interpreter.environment(Network::None).contains_key(name));
        let own: Vec<String> = own.collect();
        let behind_authorities = Interpreter {
            authorities: Some("/a.pem".to_owned()),
            ..interpreter.clone()
        };
        let order = Order {
            interpreter: &behind_authorities,
            ..order
        };
        assert_eq!(order.prepare().env["npm_config_cafile"], "/a.pem");
        assert_eq!(order.prepare().env["PIP_RETRIES"], "0");
        assert_eq!(
            own.join(" "),
            "BUN_INSTALL_CACHE_DIR BUN_TMPDIR DENO_NO_UPDATE_CHECK NO_COLOR PIP_BREAK_SYSTEM_PACKAGES PIP_RETRIES npm_config_cache npm_config_color npm_config_logs_max npm_config_update_notifier"
        );
    }
}
