//! What the program reaches: `--net`, and which hosts the filtered network lets
//! through.

use isol8_core::{
    config::values::Pattern,
    egress::{
        pattern::dot_warning,
        rules::{Filter, FilterError, List, Rules},
    },
    failure::Failure,
};
use isol8_proto::v1::{NetworkFilter, NetworkMode, PatternList};

use super::{World, wrong};
use crate::args::RunArgs;

/// More warnings about patterns than this are only counted: a list of the
/// configuration may be long, and every run reads it.
const MOST_WARNINGS: usize = 5;

const HOST_WARNING: &str =
    "with `--net host` the program reaches everything that this host reaches";

/// The network of a run.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) mode: NetworkMode,
    /// A list that is not here is the daemon's own.
    pub(super) filter: Option<NetworkFilter>,
    /// What the file has in place of the daemon's own, in case that the session
    /// has a filter: which network it has, only the daemon knows.
    pub(super) default_filter: Option<NetworkFilter>,
    pub(super) warnings: Vec<String>,
}

/// Checks mode and lists. Without lists nothing is compiled.
pub(super) fn reach(args: &RunArgs, world: &World<'_>) -> Result<Reach, Failure> {
    let mode = mode(args)?;
    match (mode, of_filtered(args)) {
        (NetworkMode::Filtered, _) => filtered(mode, args, world),
        (NetworkMode::Unspecified, typed) => {
            let reach = filtered(mode, args, world)?;
            // A session that is made for packages has a filter.
            match typed.is_some() || !args.install.is_empty() {
                true => Ok(reach),
                false => Ok(Reach {
                    mode,
                    filter: None,
                    default_filter: reach.filter,
                    // It may have none.
                    warnings: Vec::new(),
                }),
            }
        }
        (_, Some(flag)) => Err(
            wrong(format!("`{flag}` does nothing without a filtered network"))
                .hint("add `--net filtered`"),
        ),
        (_, None) => {
            // Who asks for JSON wants nothing to read, and asked for the host.
            let warns = mode == NetworkMode::Host && !args.json;
            let warnings = warns.then(|| HOST_WARNING.to_owned());
            Ok(Reach {
                mode,
                filter: None,
                default_filter: None,
                warnings: warnings.into_iter().collect(),
            })
        }
    }
}

fn filtered(mode: NetworkMode, args: &RunArgs, world: &World<'_>) -> Result<Reach, Failure> {
    let network = &world.config.network;
    let (white, black) = (&network.whitelist, &network.blacklist);
    let lists = Lists {
        allow: Chosen::new(
            ("--allow", &args.allow),
            ("network.whitelist", white),
            world,
        ),
        deny: Chosen::new(("--deny", &args.deny), ("network.blacklist", black), world),
    };
    lists.check()?;
    Ok(Reach {
        mode,
        warnings: lists.warnings(),
        filter: lists.into_wire(),
        default_filter: None,
    })
}

/// Sent in full, also where `--install` decides it: a daemon that knows no
/// packages then refuses the network in place of running without them. Only a
/// session may have one that was not typed now, and the daemon knows it.
fn mode(args: &RunArgs) -> Result<NetworkMode, Failure> {
    match args.net.as_deref() {
        None if args.in_session() => Ok(NetworkMode::Unspecified),
        None if !args.install.is_empty() => Ok(NetworkMode::Filtered),
        None | Some("none") => Ok(NetworkMode::None),
        Some("host") => Ok(NetworkMode::Host),
        Some("filtered") => Ok(NetworkMode::Filtered),
        Some(other) => Err(wrong(format!("`{other}` is not a network mode"))
            .hint("choose `--net none`, `host` or `filtered`")),
    }
}

/// The first flag that means something in a filtered network alone.
fn of_filtered(args: &RunArgs) -> Option<&'static str> {
    let flags = [
        ("--allow", !args.allow.is_empty()),
        ("--deny", !args.deny.is_empty()),
        ("--log-network", args.log_network),
    ];
    let given = flags.into_iter().find(|(_, given)| *given);
    given.map(|(flag, _)| flag)
}

/// A list of the run, and what the person knows it by.
#[derive(Debug)]
struct Chosen {
    name: &'static str,
    /// `None` leaves it to the daemon.
    patterns: Option<Vec<String>>,
}

impl Chosen {
    /// The flags, else the key where the configuration's file has it.
    fn new(
        (flag, typed): (&'static str, &[String]),
        (key, configured): (&'static str, &[Pattern]),
        world: &World<'_>,
    ) -> Self {
        if !typed.is_empty() {
            let patterns = Some(typed.to_vec());
            return Self {
                name: flag,
                patterns,
            };
        }
        let text = |pattern: &Pattern| pattern.as_str().to_owned();
        let given = (world.given)(key);
        Self {
            name: key,
            patterns: given.then(|| configured.iter().map(text).collect()),
        }
    }

    fn texts(&self) -> &[String] {
        self.patterns.as_deref().unwrap_or_default()
    }

    fn into_wire(self) -> Option<PatternList> {
        self.patterns.map(|patterns| PatternList { patterns })
    }
}

#[derive(Debug)]
struct Lists {
    allow: Chosen,
    deny: Chosen,
}

impl Lists {
    fn check(&self) -> Result<(), Failure> {
        let filter = Filter {
            allow: self.allow.texts().to_vec(),
            deny: self.deny.texts().to_vec(),
            ..Filter::default()
        };
        match Rules::compile(&filter) {
            Ok(_) => Ok(()),
            Err(FilterError::Pattern { list, index, error }) => {
                let chosen = match list {
                    List::Allow => &self.allow,
                    List::Deny => &self.deny,
                };
                let name = chosen.name;
                let message = match chosen.texts().len() {
                    1 => format!("wrong pattern for `{name}`"),
                    _ => format!("wrong pattern for `{name}`, number {}", index + 1),
                };
                let example = match name.starts_with('-') {
                    true => format!("{name} '^api\\.example\\.com$'"),
                    false => "^api\\.example\\.com$".to_owned(),
                };
                Err(wrong(message)
                    .cause(error.to_string())
                    .hint(format!("a host is written like `{example}`")))
            }
            Err(error) => Err(wrong(error.to_string())
                .hint(r"several hosts fit into one pattern: `^(api|files)\.example\.com$`")),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let texts = self.allow.texts().iter().chain(self.deny.texts());
        let mut warnings: Vec<String> = texts.filter_map(|text| dot_warning(text)).collect();
        let more = warnings.len().saturating_sub(MOST_WARNINGS);
        if more > 0 {
            warnings.truncate(MOST_WARNINGS);
            warnings.push(format!("the same is true of {more} more patterns"));
        }
        warnings
    }

    fn into_wire(self) -> Option<NetworkFilter> {
        let filter = NetworkFilter {
            allow: self.allow.into_wire(),
            deny: self.deny.into_wire(),
        };
        let given = filter.allow.is_some() || filter.deny.is_some();
        given.then_some(filter)
    }
}
