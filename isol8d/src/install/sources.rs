//! Where an image's own package manager takes packages from.
//!
//! Packages of an image's system are installed in a build, as root, which is on
//! the engine's own network: no filter of ours is in it. So the manager is asked
//! before, offline and in a sandbox of the image, which hosts it is set up with,
//! and each is judged by the lists of the run, as the filter would.
//!
//! **What a build does beyond that is not judged**: where these hosts redirect
//! to, mirrors that one of them names, the addresses that their names stand for,
//! and what scripts of packages reach.

use std::{collections::BTreeSet, net::IpAddr};

use isol8_core::{
    egress::{
        host::Host,
        rules::{Filter, Rules},
    },
    failure::{Failure, FailureKind},
    package::Package,
};
use url::Url;

use super::{
    recipe::{Must, Step},
    site::{Site, lost},
};

const ASK: &str = include_str!("sources/ask.sh");
/// How the script says that there is no manager that it knows.
const NO_MANAGER: u8 = 127;
/// Lists of mirrors in this folder are shown by the script.
const MIRRORS: &str = "mirror+file:/etc/apt/mirrors/";
/// More than any image has.
const MOST: usize = 50;

/// Hosts with ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources(BTreeSet<(String, u16)>);

impl Sources {
    /// Asks the manager in a sandbox of the image. Needs no network.
    ///
    /// # Errors
    /// `InstallFailed` without a manager, or where it does not tell; `Internal`
    /// where the sandbox is gone.
    ///
    /// # Cancellation
    /// Not cancel safe: the sandbox is to be destroyed.
    pub(crate) async fn ask(site: &mut Site<'_>) -> Result<Self, Failure> {
        let step = Step {
            argv: ["/bin/sh", "-c", ASK].map(str::to_owned).into(),
            env: site.interpreter.environment(site.network),
            must: Must::BeThere,
        };
        let (ended, answer) = site.ask(&step).await.map_err(|error| lost(&error))?;
        if ended == super::errand::Ended::Code(NO_MANAGER) {
            let message = "the image has no package manager that isol8 knows";
            return Err(Failure::new(FailureKind::InstallFailed, message)
                .hint("use an image with apt-get or apk"));
        }
        let known = ended.is_good().then(|| Self::read(&answer)).flatten();
        known.ok_or_else(|| {
            let message = "the package manager of the image does not tell where packages come from";
            Failure::new(FailureKind::InstallFailed, message)
                .hint("`--net host` installs without asking")
        })
    }

    /// Every URL that goes through a network. `None` where there may be others.
    fn read(answer: &[u8]) -> Option<Self> {
        let answer = String::from_utf8_lossy(answer);
        let mut found = BTreeSet::new();
        for word in answer.split_whitespace() {
            let word = word.trim_matches('\'');
            if word.starts_with("mirror+file:") && !word.starts_with(MIRRORS) {
                return None;
            }
            let word = word.strip_prefix("mirror+").unwrap_or(word);
            let Ok(url) = Url::parse(word) else { continue };
            let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
                continue;
            };
            let port = url.port_or_known_default()?;
            found.insert((Host::parse(host).ok()?.to_string(), port));
        }
        (found.len() <= MOST).then_some(Self(found))
    }

    /// The hosts.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        self.0.iter().map(|(host, _)| host.clone()).collect()
    }

    /// Looks whether a run with these lists may have packages of them.
    ///
    /// # Errors
    /// `InstallFailed` for the first host that is refused.
    pub(crate) fn judge(&self, filter: &Filter, packages: &[Package]) -> Result<(), Failure> {
        let filter = Filter {
            registries: self.hosts().into_iter().collect(),
            ..filter.clone()
        };
        let rules = Rules::compile(&filter).map_err(|error| {
            let message = "the lists of this run cannot be used";
            Failure::new(FailureKind::InvalidRequest, message).because(&error)
        })?;
        for (name, port) in &self.0 {
            let Ok(host) = Host::parse(name) else {
                continue;
            };
            let judged = rules.judge_host(&host, *port);
            let judged = judged.and_then(|()| match name.parse::<IpAddr>() {
                Ok(address) => rules.judge_address(address),
                Err(_) => Ok(()),
            });
            if let Err(refusal) = judged {
                let names: Vec<&str> = packages.iter().map(Package::as_str).collect();
                let message = format!(
                    "cannot install {}: the image takes packages from `{name}`: {refusal}",
                    names.join(", ")
                );
                return Err(Failure::new(FailureKind::InstallFailed, message)
                    .hint("change `--deny` or the configuration"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use isol8_core::runtime::Runtime;

    use super::*;

    fn sources(hosts: &[(&str, u16)]) -> Sources {
        let owned = hosts.iter().map(|(host, port)| ((*host).to_owned(), *port));
        Sources(owned.collect())
    }

    #[test]
    fn apt_and_apk_say_where_they_go() {
        let apt = b"'http://A.example./debian/dists/x/InRelease' a_InRelease 0 \n\
            'https://b.example:8443/x' b 0\n\
            'mirror+https://list.example/x' c 0\n\
            'mirror+file:/etc/apt/mirrors/list/dists/x' d 0\n\
            'file:/srv/repo/x' e 0\n\
            http://mirror.example/debian\tpriority:1\n\
            Reading package lists...\n";
        let expected = sources(&[
            ("a.example", 80),
            ("b.example", 8443),
            ("list.example", 443),
            ("mirror.example", 80),
        ]);
        assert_eq!(Sources::read(apt), Some(expected));
        let apk = b"# comment\nhttps://c.example/v3/main\n@edge http://[2001:db8::1]/x\n/srv/apk\n";
        let expected = sources(&[("2001:db8::1", 80), ("c.example", 443)]);
        assert_eq!(Sources::read(apk), Some(expected));
        assert_eq!(Sources::read(b""), Some(sources(&[])));
    }

    #[test]
    fn what_may_hide_a_host_is_no_answer() {
        for hidden in [
            "'mirror+file:/srv/list/dists/x' d 0",
            "'gopher-like://h.example/x' d 0",
        ] {
            assert_eq!(Sources::read(hidden.as_bytes()), None, "{hidden}");
        }
    }

    #[test]
    fn the_lists_of_the_run_hold() {
        let packages = Package::parse_all(Runtime::Bash, &["jq", "bc"]).expect("good");
        let judge = |hosts: &[(&str, u16)], change: &dyn Fn(&mut Filter)| {
            let mut filter = Filter {
                ports: vec![80, 443],
                ..Filter::default()
            };
            change(&mut filter);
            let judged = sources(hosts).judge(&filter, &packages);
            judged.map_err(|failure| {
                assert_eq!(failure.kind, FailureKind::InstallFailed);
                failure.message
            })
        };
        let usual = &[("deb.example", 80), ("sec.example", 443)];
        assert_eq!(judge(usual, &|_| {}), Ok(()));
        let allow = |filter: &mut Filter| filter.allow.push("other\\.example".to_owned());
        assert_eq!(judge(usual, &allow), Ok(()), "registries always join");
        let denied = judge(usual, &|filter| filter.deny.push("^sec".to_owned()));
        assert_eq!(
            denied.expect_err("it is denied"),
            "cannot install bc, jq: the image takes packages from `sec.example`: in the deny list"
        );
        let port = judge(&[("deb.example", 8080)], &|_| {});
        assert!(port.expect_err("no such port").contains("port 8080"));
        let private = judge(&[("10.0.0.1", 80)], &|_| {});
        assert!(private.expect_err("private").contains("10.0.0.1"));
    }
}
