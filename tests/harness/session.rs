//! A session of a stage, and a program in its background whose life can be seen
//! from inside and, while no daemon lives, from the host.

use std::fs;

use serde_json::Value;

use super::{
    call::{Call, Ran},
    host::{self, Process},
    stage::Stage,
    wait::{seconds, wait_for, wait_until},
};

/// A session by its name. It may or may not be there.
#[derive(Debug)]
pub struct Session<'a> {
    stage: &'a Stage,
    name: String,
}

/// Counts without starting a process, so that a full process limit does not end
/// it. Nobody writes into its pipe: waiting for it is how it sleeps. Its file has
/// the same length all the time: who reads it never sees a half one.
const HEART: &str = "mkfifo /tmp/.never-$1; exec 3<>/tmp/.never-$1; n=0; while :; do n=$((n+1)); \
     printf \"%d %012d\\n\" $$ $n 1<>/sandbox/.beat-$1; read -t 0.05 -u 3; done";

/// One look at a [`Heart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Its number inside the sandbox.
    pub pid: u32,
    /// How far it has counted.
    pub count: u64,
}

/// A background process of a session that counts as long as it lives.
#[derive(Debug, Clone)]
pub struct Heart {
    mark: String,
}

impl<'a> Session<'a> {
    /// The session of this name on a stage.
    #[must_use]
    pub fn new(stage: &'a Stage, name: impl Into<String>) -> Self {
        Self {
            stage,
            name: name.into(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `isol8 run --session` with inline code.
    #[must_use]
    pub fn eval(&self, runtime: &str, code: &str) -> Call {
        self.stage
            .eval(runtime, code)
            .args(["--session", &self.name])
    }

    /// The same with bash.
    #[must_use]
    pub fn bash(&self, code: &str) -> Call {
        self.eval("bash", code)
    }

    /// The same with python.
    #[must_use]
    pub fn python(&self, code: &str) -> Call {
        self.eval("python", code)
    }

    /// A path in it, as `isol8 session` takes it.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("{}:{path}", self.name)
    }

    /// `isol8 session cp`, with `args` as they are.
    #[must_use]
    pub fn cp<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        self.stage.isol8(["session", "cp"]).args(args)
    }

    /// The content of a file in it.
    ///
    /// # Panics
    /// When it cannot be fetched.
    #[must_use]
    #[track_caller]
    pub fn fetch(&self, path: &str) -> Vec<u8> {
        let ran = self.cp([self.at(path), "-".to_owned()]).go();
        ran.ended(0);
        ran.stdout
    }

    /// Puts a file into it.
    ///
    /// # Panics
    /// When it cannot be put there.
    #[track_caller]
    pub fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        let to = ["-".to_owned(), self.at(path)];
        self.cp(to).feed(content).go().ended(0);
    }

    /// What is in a folder of it: names, sorted.
    ///
    /// # Panics
    /// When it cannot be listed.
    #[must_use]
    #[track_caller]
    pub fn names(&self, path: &str) -> Vec<String> {
        let ran = self
            .stage
            .isol8(["session", "ls", &self.at(path), "--json"])
            .go();
        ran.ended(0);
        let listed = ran.json();
        let files = listed["files"].as_array().expect("a list");
        let names = files
            .iter()
            .map(|file| file["name"].as_str().expect("a name").to_owned());
        names.collect()
    }

    /// Its line of `isol8 session ls`, if it is there.
    ///
    /// # Panics
    /// When sessions cannot be listed.
    #[must_use]
    #[track_caller]
    pub fn info(&self) -> Option<Value> {
        let mut all = self.stage.sessions();
        all.retain(|session| session["name"] == self.name.as_str());
        assert!(all.len() <= 1, "one name, one session: {all:?}");
        all.pop()
    }

    /// Whether something goes on in it, asked without its turn.
    ///
    /// # Panics
    /// When the daemon does not tell.
    #[must_use]
    #[track_caller]
    pub fn is_busy(&self) -> bool {
        let status = self.stage.status();
        let sessions = status["sessions"].as_array().expect("a list");
        let its = |session: &&Value| session["name"] == self.name.as_str();
        sessions
            .iter()
            .find(its)
            .is_some_and(|session| session["state"] == "busy")
    }

    /// Its sandbox.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn sandbox(&self) -> String {
        let info = self.info().expect("the session is there");
        info["sandboxId"].as_str().expect("an id").to_owned()
    }

    /// `isol8 session rm`.
    #[must_use]
    pub fn rm(&self) -> Ran {
        self.stage.isol8(["session", "rm", &self.name]).go()
    }

    /// Removes it.
    ///
    /// # Panics
    /// When it cannot be removed.
    #[track_caller]
    pub fn remove(&self) {
        self.rm().ended(0);
    }

    /// Starts a [`Heart`] in it by a run of bash. `mark` must be nobody else's.
    ///
    /// # Panics
    /// When it does not begin to beat.
    #[must_use]
    #[track_caller]
    pub fn start_heart(&self, mark: &str) -> Heart {
        let code = format!("(setsid bash -c '{HEART}' heart {mark} >/dev/null 2>&1 &)");
        self.bash(&code).go().ok();
        let heart = Heart {
            mark: mark.to_owned(),
        };
        wait_for("the first beat", seconds(20), || heart.seen_from_the_host());
        heart
    }

    /// A look at a heart from inside, by a copy of its file.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn beat(&self, heart: &Heart) -> Beat {
        let path = format!("/sandbox/.beat-{}", heart.mark);
        wait_for("a beat", seconds(20), || parse(&self.fetch(&path)))
    }
}

impl Heart {
    /// Its process on the host.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        host::processes().into_iter().find(|process| {
            let [.., name, mark] = process.argv.as_slice() else {
                return false;
            };
            name == "heart" && *mark == self.mark && !process.is_zombie()
        })
    }

    /// A look at it that needs no daemon. `None`: it is dead, or just writing.
    #[must_use]
    pub fn seen_from_the_host(&self) -> Option<Beat> {
        let process = self.process()?;
        let root = format!("/proc/{}/root", process.pid.as_raw_nonzero());
        parse(&fs::read(format!("{root}/sandbox/.beat-{}", self.mark)).ok()?)
    }

    /// Waits until it has gone on counting since `before`, and was it all the
    /// time.
    ///
    /// # Panics
    /// When it has not, or is another.
    #[track_caller]
    pub fn goes_on_since(&self, before: Beat) {
        wait_until("more beats of the same process", seconds(20), || {
            self.seen_from_the_host().is_some_and(|now| {
                assert_eq!(now.pid, before.pid, "it was started anew");
                now.count > before.count + 2
            })
        });
    }
}

fn parse(text: &[u8]) -> Option<Beat> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (pid, count) = text.split_once(' ')?;
    Some(Beat {
        pid: pid.parse().ok()?,
        count: count.parse().ok()?,
    })
}
