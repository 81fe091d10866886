//! A terminal in which somebody follows a page: one shell, in a folder of its own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use isol8_e2e::harness::{
    call::{Call, Running},
    stage::Stage,
    wait::{seconds, wait_for},
};

use super::page::{Page, Step, settled, tells};

/// Where a page says that the gateway is; it is at a free port.
const PORT: &str = "localhost:3000";
const SAID: &str = "isol8 serves http://127.0.0.1:";

/// No output of a page is this.
const END: &str = "--- end of a step, with";

pub(super) struct Terminal {
    shell: Running,
    folder: PathBuf,
    /// Of its output; what is before was looked at.
    seen: usize,
    /// Of the gateway that this terminal has started.
    port: Option<String>,
}

impl Terminal {
    /// Opens one, with the binaries of the stage on the path.
    pub(super) fn open(stage: &Stage) -> Self {
        let folder = stage.folder().join("terminal");
        fs::create_dir(&folder).expect("the stage's folder is ours");
        let client = stage.binary("isol8");
        let bin = Path::new(client.get_program()).parent();
        let mut path = bin.expect("it is in a folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        // Everything that the caller's own shell has, but isol8's variables: pip may
        // need what it is told there.
        command.args(["--norc", "--noprofile"]);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ISOL8_") {
                command.env_remove(name);
            }
        }
        let environment = client.get_envs();
        command.envs(environment.filter_map(|(name, value)| Some((name, value?))));
        command
            .env("PATH", path)
            .env("ISOL8_PORT", "0")
            .current_dir(&folder);
        let mut shell = Call::new(command).open_stdin().start();
        let stdin = shell.stdin.as_mut().expect("it is a pipe");
        stdin.write_all(b"exec 2>&1\n").expect("bash reads");
        Self {
            shell,
            folder,
            seen: 0,
            port: None,
        }
    }

    /// Puts a file there that the page has told of, or takes for granted.
    pub(super) fn file(&self, name: &str, content: &str) {
        fs::write(self.folder.join(name), content).expect("the folder is ours");
    }

    /// Does everything that a page says, and compares what comes with what it shows.
    ///
    /// # Panics
    /// When the page lies.
    #[track_caller]
    pub(super) fn follow(mut self, page: &Page) {
        assert!(!page.steps.is_empty(), "the page says nothing to do");
        let mut lies = Vec::new();
        for step in &page.steps {
            if step.command.starts_with("isol8 serve") {
                // A program that its own files talk to is there by now.
                lies.extend(self.serve(step).err());
                for (name, content) in &page.files {
                    self.file(name, &self.here(content));
                }
                continue;
            }
            let came = self.run(&self.here(&step.command));
            lies.extend(self.compare(step, &came).err());
        }
        self.run("kill $server 2>/dev/null; wait");
        assert!(lies.is_empty(), "{}", lies.join("\n"));
    }

    /// What the page says, as it is here.
    fn here(&self, text: &str) -> String {
        match &self.port {
            Some(port) => text.replace(PORT, &format!("localhost:{port}")),
            None => text.to_owned(),
        }
    }

    /// It goes on while the page does; another one takes its place.
    fn serve(&mut self, step: &Step) -> Result<(), String> {
        self.run("kill $server 2>/dev/null; wait");
        let log = self.folder.join("serve.log");
        fs::write(&log, "").expect("the folder is ours");
        self.run(&format!("{} >serve.log 2>&1 & server=$!", step.command));
        // It goes on, and may say more than the page shows.
        let lines = step.shown.len();
        let (port, said) = wait_for("the gateway of a page", seconds(60), || {
            let said = fs::read_to_string(&log).expect("it was written");
            let (_, after) = said.split_once(SAID)?;
            let (port, _) = after.split_once('\n')?;
            let first: Vec<_> = said.split_inclusive('\n').take(lines).collect();
            let is_whole = first.len() == lines && first.concat().ends_with('\n');
            is_whole.then(|| (port.to_owned(), first.concat()))
        });
        self.port = Some(port);
        self.compare(step, &said)
    }

    /// Types a command, and waits until it is over.
    fn run(&mut self, command: &str) -> String {
        let stdin = self.shell.stdin.as_mut().expect("it is a pipe");
        // What it prints may have no end of line; nothing of what is typed is its
        // input.
        let typed = format!("{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' '{END}' $?\n");
        stdin.write_all(typed.as_bytes()).expect("bash reads");
        let what = format!("the end of `{command}`");
        let (came, seen) = wait_for(&what, seconds(100), || {
            let all = self.shell.stdout_so_far();
            let new = String::from_utf8_lossy(&all[self.seen..]).into_owned();
            let (came, code) = new.split_once(END)?;
            code.contains('\n')
                .then(|| (came.trim_end().to_owned(), all.len()))
        });
        self.seen = seen;
        came
    }

    /// # Errors
    /// What is not as it is shown.
    fn compare(&self, step: &Step, came: &str) -> Result<(), String> {
        let came = match &self.port {
            Some(port) => came.replace(&format!(":{port}"), ":3000"),
            None => came.to_owned(),
        };
        let came: Vec<_> = came.trim_end().lines().collect();
        let shown = step.shown.iter().rposition(|line| !line.is_empty());
        let shown = &step.shown[..shown.map_or(0, |last| last + 1)];
        let settled_shown: Vec<_> = shown.iter().map(|line| settled(line)).collect();
        let settled_came: Vec<_> = came.iter().map(|line| settled(line)).collect();
        if tells(&settled_shown, &settled_came) {
            return Ok(());
        }
        Err(format!(
            "line {} of the page: `{}`\n-- shows\n{}\n-- and prints\n{}\n--",
            step.line,
            step.command,
            shown.join("\n"),
            came.join("\n"),
        ))
    }
}
