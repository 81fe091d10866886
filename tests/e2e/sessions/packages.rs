//! Packages of a session, of the real registries: installed once, there in every
//! later run.

both_engines! {
    fn installed_packages_survive(stage: &Stage) {
        let work = stage.session("work");
        let patient = ["--timeout", "110000"];
        let six = "import six; print(six.__version__)";
        let ran = work.python(six).args(["--install", "six==1.17.0"]).args(patient).go();
        assert_eq!(ran.ok(), "1.17.0\n");
        let here = "import six; print(six.__version__, six.__file__.startswith('/sandbox/.local/'))";
        assert_eq!(work.python(here).go().ok(), "1.17.0 True\n");
        // What it has is not installed twice.
        let again = work.python(six).args(["--install", "six==1.17.0"]).go();
        assert_eq!((again.ok().as_str(), again.err().as_str()), ("1.17.0\n", ""));
        // Nor is it anybody else's.
        let none = stage.python("import os; print(os.path.exists('/sandbox/.local/lib'))").go();
        assert_eq!(none.ok(), "False\n");
        stage.crash_whoever_answers();
        assert_eq!(work.python(six).go().ok(), "1.17.0\n");
        work.remove();
        stage.stop_whoever_answers();
    }

    /// Another one joins what is there, also what the programs themselves made.
    fn more_packages_can_come_later(stage: &Stage) {
        let work = stage.session("work");
        let patient = ["--timeout", "110000"];
        let ms = "console.log(require('ms')('2 days'))";
        let ran = work.eval("node", ms).args(["--install", "ms@2.1.3"]).args(patient).go();
        assert_eq!(ran.ok(), "172800000\n");
        work.eval("node", "require('fs').writeFileSync('f', 'kept')").go().ok();
        let both = "import Queue from 'yocto-queue'; import ms from 'ms'; import fs from 'fs'; console.log(new Queue().size, ms('1 s'), fs.readFileSync('f', 'utf8'))";
        let ran = work.eval("node", both).args(["--install", "yocto-queue@1.2.1"]).args(patient).go();
        assert_eq!(ran.ok(), "0 1000 kept\n");
        assert_eq!(work.eval("node", both).go().ok(), "0 1000 kept\n");
        // One that is not there changes nothing.
        let none = work.eval("node", "1").args(["--install", "isol8-no-such-package-4711"]).args(patient).go();
        none.ended(125).says("isol8-no-such-package-4711");
        assert_eq!(work.eval("node", both).go().ok(), "0 1000 kept\n");
        work.remove();
    }

    /// A session that was made without a network cannot get any.
    fn without_a_network_nothing_is_installed(stage: &Stage) {
        let work = stage.session("work");
        work.python("open('f', 'w').write('kept')").go().ok();
        let ran = work.python("print('no')").args(["--install", "six"]).go();
        assert_eq!(ran.ended(125).out(), "");
        ran.says("work").says("network").says("none").says("hint: ");
        assert_eq!(work.python("print(open('f').read())").go().ok(), "kept\n");
        work.remove();
    }
}
