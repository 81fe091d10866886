//! What may be asked for over HTTP: a ceiling. A request may stay below it, never
//! go over it.
//!
//! The daemon has a policy of its own, which holds as well. This one is for those
//! who come over the network, and may be narrower still for one key.

use std::time::Duration;

use isol8_core::{
    config::{self, Config, EngineChoice},
    quantity::{ByteSize, CpuMillis},
    sandbox::EngineKind,
};
use isol8_proto::v1::{Engine, Limits, NetworkMode, Start};

use crate::refusal::Refusal;

/// The ceiling of a gateway, or of one key. Narrow unless it is opened.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The host's network may be asked for.
    pub allow_host_network: bool,
    /// Images that a run may name, word for word.
    pub images: Vec<String>,
    /// The most memory; `None` is as much as the daemon allows, here and below.
    pub max_memory: Option<ByteSize>,
    /// The most processor share.
    pub max_cpu: Option<CpuMillis>,
    /// The longest time.
    pub max_timeout: Option<Duration>,
    /// The only engine that a run may name; `None` is any. Engines differ in what
    /// they are told: one may have a stronger runtime than the other.
    pub engine: Option<EngineKind>,
    /// What a run gets that does not say, before it is lowered to the ceiling.
    pub usual: Usual,
}

/// Bounds of a run that asks for none.
#[derive(Debug, Clone)]
pub struct Usual {
    /// Memory.
    pub memory: ByteSize,
    /// Processor share.
    pub cpu: CpuMillis,
    /// Time.
    pub timeout: Duration,
}

impl Default for Usual {
    fn default() -> Self {
        Self::of(&Config::default())
    }
}

impl Usual {
    fn of(config: &Config) -> Self {
        Self {
            memory: config.defaults.limits.memory,
            cpu: config.defaults.limits.cpu,
            timeout: config.defaults.limits.timeout,
        }
    }
}

impl Policy {
    /// The ceiling of a configuration. What it does not say is narrow: who comes
    /// over HTTP is not the user of this machine.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let open = Self {
            allow_host_network: true,
            engine: match config.engine {
                EngineChoice::Auto => None,
                EngineChoice::Only(engine) => Some(engine),
            },
            usual: Usual::of(config),
            ..Self::default()
        };
        let policy = &config.policy;
        Self {
            allow_host_network: policy.allow_host_network.unwrap_or_default(),
            images: policy.images.clone().unwrap_or_default(),
            ..open.narrowed(policy)
        }
    }

    /// The stricter of both in everything. What `by` does not say stays.
    #[must_use]
    pub fn narrowed(&self, by: &config::Policy) -> Self {
        let images = self.images.iter();
        let allowed = |image: &&String| by.images.as_ref().is_none_or(|all| all.contains(image));
        Self {
            allow_host_network: self.allow_host_network && by.allow_host_network.unwrap_or(true),
            images: images.filter(allowed).cloned().collect(),
            max_memory: least(self.max_memory, by.max_memory),
            max_cpu: least(self.max_cpu, by.max_cpu),
            max_timeout: least(self.max_timeout, by.max_timeout),
            engine: self.engine,
            usual: self.usual.clone(),
        }
    }

    /// Checks what a run asks for. What it leaves open is lowered to the ceiling
    /// where the usual is over it: who asks for nothing is not refused.
    ///
    /// # Errors
    /// 403 names the rule.
    pub(crate) fn apply(&self, start: &mut Start) -> Result<(), Refusal> {
        if start.network() == NetworkMode::Host && !self.allow_host_network {
            let message = "the network `host` is forbidden by `policy.allowHostNetwork`";
            return Err(Refusal::forbidden(message));
        }
        if !start.image.is_empty() && !self.images.contains(&start.image) {
            return Err(Refusal::forbidden(format!(
                "the image `{}` is not in the list of `policy.images`",
                start.image.escape_debug()
            )));
        }
        self.check_engine(start)?;
        let asked = start.limits.unwrap_or_default();
        self.check(&asked)?;
        let defaults = self.lowered(start.defaults.unwrap_or_default());
        if defaults != Limits::default() {
            start.defaults = Some(defaults);
        }
        Ok(())
    }

    fn check_engine(&self, start: &mut Start) -> Result<(), Refusal> {
        let Some(only) = self.engine else {
            return Ok(());
        };
        let is_other = |engine| match engine {
            Engine::Unspecified => false,
            Engine::Docker => only != EngineKind::Docker,
            Engine::Native => only != EngineKind::Native,
        };
        if is_other(start.engine()) {
            return Err(Refusal::forbidden(format!(
                "runs here are on the engine `{only}`: it is the `engine` of the configuration"
            )));
        }
        if is_other(start.default_engine()) {
            start.default_engine = Engine::Unspecified.into();
        }
        Ok(())
    }

    fn check(&self, asked: &Limits) -> Result<(), Refusal> {
        let over = |what: String, rule: &str, most: String| {
            Err(Refusal::forbidden(format!(
                "{what} is over the {most} of `policy.{rule}`"
            )))
        };
        if let Some(most) = self.max_memory
            && asked.memory_bytes > most.as_bytes()
        {
            let asked = ByteSize::bytes(asked.memory_bytes);
            return over(format!("memory of {asked}"), "maxMemory", most.to_string());
        }
        if let Some(most) = self.max_cpu
            && asked.cpu_millis > most.as_millis()
        {
            let cpu = f64::from(asked.cpu_millis) / 1000.0;
            return over(format!("cpu of {cpu}"), "maxCpu", most.to_string());
        }
        if let Some(most) = self.max_timeout
            && u128::from(asked.timeout_ms) > most.as_millis()
        {
            let most = format!("{} ms", most.as_millis());
            let what = format!("a timeout of {} ms", asked.timeout_ms);
            return over(what, "maxTimeoutMs", most);
        }
        Ok(())
    }

    /// Defaults below the ceiling. Without one, what the daemon has is right.
    fn lowered(&self, given: Limits) -> Limits {
        let or = |given: u64, usual: u64| if given == 0 { usual } else { given };
        let usual = &self.usual;
        let mut lowered = given;
        if let Some(most) = self.max_memory {
            let memory = or(given.memory_bytes, usual.memory.as_bytes());
            lowered.memory_bytes = memory.min(most.as_bytes());
        }
        if let Some(most) = self.max_cpu {
            let cpu = match given.cpu_millis {
                0 => usual.cpu.as_millis(),
                given => given,
            };
            lowered.cpu_millis = cpu.min(most.as_millis());
        }
        if let Some(most) = self.max_timeout {
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let timeout = or(given.timeout_ms, millis(usual.timeout));
            lowered.timeout_ms = timeout.min(millis(most));
        }
        lowered
    }
}

fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(max_memory: u64, max_cpu: u32, max_timeout_ms: u64) -> config::Policy {
        config::Policy {
            max_memory: Some(ByteSize::mib(max_memory)),
            max_cpu: CpuMillis::new(max_cpu),
            max_timeout: Some(Duration::from_millis(max_timeout_ms)),
            ..config::Policy::default()
        }
    }

    #[test]
    fn the_stricter_of_both_holds() {
        let mut config = Config::default();
        config.policy = config::Policy {
            allow_host_network: Some(true),
            images: Some(vec!["a".to_owned(), "b".to_owned()]),
            ..by(256, 2000, 5000)
        };
        let gateway = Policy::of(&config);
        let key = gateway.narrowed(&config::Policy {
            images: Some(vec!["b".to_owned(), "c".to_owned()]),
            ..by(512, 500, 9000)
        });
        assert_eq!(key.images, ["b"], "a key opens nothing");
        assert_eq!(key.max_memory, Some(ByteSize::mib(256)));
        assert_eq!(key.max_cpu, CpuMillis::new(500));
        assert_eq!(key.max_timeout, Some(Duration::from_secs(5)));
        assert!(key.allow_host_network);
        let shut = key.narrowed(&config::Policy {
            allow_host_network: Some(false),
            ..config::Policy::default()
        });
        assert!(!shut.allow_host_network);
        let opened = Policy::of(&Config::default()).narrowed(&config.policy);
        assert!(!opened.allow_host_network && opened.images.is_empty());
    }

    #[test]
    fn what_is_over_the_ceiling_is_refused_with_its_rule() {
        let policy = Policy::default().narrowed(&by(64, 500, 1000));
        let refused = |limits: Limits| {
            let mut start = Start {
                limits: Some(limits),
                ..Start::default()
            };
            let refusal = policy.apply(&mut start).expect_err("over the ceiling");
            assert_eq!(refusal.status, 403);
            refusal.body.error
        };
        let memory_bytes = (64 << 20) + 1;
        let over_memory = refused(Limits {
            memory_bytes,
            ..Limits::default()
        });
        assert!(over_memory.contains("policy.maxMemory"), "{over_memory}");
        let over_cpu = refused(Limits {
            cpu_millis: 501,
            ..Limits::default()
        });
        assert!(over_cpu.contains("policy.maxCpu"), "{over_cpu}");
        let over_time = refused(Limits {
            timeout_ms: 1001,
            ..Limits::default()
        });
        assert!(over_time.contains("policy.maxTimeoutMs"), "{over_time}");
    }

    #[test]
    fn no_run_is_on_another_engine_than_the_operators() {
        let only = |engine| {
            let config = Config {
                engine,
                ..Config::default()
            };
            Policy::of(&config).narrowed(&config::Policy::default())
        };
        let start = |engine: Engine, default_engine: Engine| Start {
            engine: engine.into(),
            default_engine: default_engine.into(),
            ..Start::default()
        };
        let docker = only(EngineChoice::Only(EngineKind::Docker));
        let refusal = docker.apply(&mut start(Engine::Native, Engine::Unspecified));
        let refusal = refusal.expect_err("it is another one");
        assert_eq!(refusal.status, 403);
        assert!(refusal.body.error.contains("`docker`"));
        for (mut asked, default) in [
            (start(Engine::Docker, Engine::Docker), Engine::Docker),
            (
                start(Engine::Unspecified, Engine::Native),
                Engine::Unspecified,
            ),
        ] {
            docker.apply(&mut asked).expect("it is the operator's");
            assert_eq!(asked.default_engine(), default);
        }
        let mut asked = start(Engine::Native, Engine::Native);
        only(EngineChoice::Auto).apply(&mut asked).expect("any");
        assert_eq!(asked.default_engine(), Engine::Native);
    }

    #[test]
    fn who_asks_for_nothing_gets_what_the_ceiling_leaves() {
        let defaults = |policy: &Policy, given| {
            let mut start = Start {
                defaults: given,
                ..Start::default()
            };
            policy.apply(&mut start).expect("it asks for nothing");
            start.defaults
        };
        assert_eq!(defaults(&Policy::default(), None), None);
        let low = Policy::default().narrowed(&by(64, 500, 1000));
        let expected = Limits {
            memory_bytes: 64 << 20,
            cpu_millis: 500,
            timeout_ms: 1000,
            ..Limits::default()
        };
        assert_eq!(defaults(&low, None), Some(expected));
        let greedy = Limits {
            memory_bytes: 1 << 40,
            cpu_millis: 64_000,
            timeout_ms: 1 << 40,
            pids: 7,
            ..Limits::default()
        };
        assert_eq!(
            defaults(&low, Some(greedy)),
            Some(Limits {
                pids: 7,
                ..expected
            })
        );
        let high = Policy::default().narrowed(&by(1 << 20, 64_000, 1 << 40));
        let usual = defaults(&high, None).expect("the usual");
        assert_eq!(
            usual.memory_bytes,
            Config::default().defaults.limits.memory.as_bytes()
        );
        assert_eq!(usual.timeout_ms, 30_000);
    }
}
