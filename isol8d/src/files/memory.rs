//! The memory of a session, as far as init needs it to move files.
//!
//! What init writes is charged to its sandbox, as init itself is. Where that is
//! full and nobody else lives in it, the kernel kills init, and every file goes
//! with it. So the daemon looks at what the sandbox holds before init is given
//! anything to write, and refuses what would bring it near the limit.

use std::{sync::Arc, time::Duration};

use isol8_core::{
    failure::{Failure, FailureKind},
    ids::SandboxId,
    quantity::ByteSize,
    sandbox::{Limits, SandboxKey},
};
use isol8_engine::Engine;
use tokio::time::timeout;

use crate::session::record::Record;

/// What files leave free at least: for init, for what is on its way to it, and for
/// a small program that removes some of them.
const RESERVE_BYTES: u64 = 8 << 20;

/// Where the limit is small, the reserve is this part of it.
const RESERVE_PART: u64 = 8;

/// What init gets beyond the limit in a session that is full.
const EXTRA_BYTES: u64 = 16 << 20;

/// A limit is not taken back to less than this above what is held: the kernel of
/// cgroup v2 would not refuse that, but kill for it.
const SLACK_BYTES: u64 = 1 << 20;

/// Data that is sent between two looks.
const STEP_BYTES: u64 = 4 << 20;

/// What an entry takes beside its data, the rest of its last page included.
const ENTRY_BYTES: u64 = 8 << 10;

/// A look, or a change of the limit, that takes longer is done without. With both,
/// a call still ends within what the daemon gives the calls that it ends.
const LOOK: Duration = Duration::from_secs(1);

/// The memory of one session.
#[derive(Debug)]
pub(crate) struct Memory {
    engine: Arc<dyn Engine>,
    sandbox: SandboxId,
    limits: Limits,
    files_bytes: u64,
}

impl Memory {
    /// That of a sandbox which was made in this way.
    pub(crate) fn new(
        engine: &Arc<dyn Engine>,
        sandbox: &SandboxId,
        key: &SandboxKey,
        limits: Limits,
    ) -> Self {
        let [files, tmp] = [key.sandbox_size, key.tmp_size].map(ByteSize::as_bytes);
        Self {
            engine: Arc::clone(engine),
            sandbox: sandbox.clone(),
            limits,
            files_bytes: files.saturating_add(tmp),
        }
    }

    /// That of a session that is made.
    pub(crate) fn of(engine: &Arc<dyn Engine>, record: &Record) -> Self {
        Self::new(engine, &record.sandbox, &record.key, record.limits)
    }

    /// As much as all files can have in them, but for holes.
    pub(crate) const fn files_bytes(&self) -> u64 {
        self.files_bytes
    }

    /// Does something with files. In a session that is full, init has more memory
    /// meanwhile.
    ///
    /// Like the processes that engines add to the limit for init, that is init's
    /// room. A run never begins with it ([`Memory::take_back`]) unless so much is
    /// held that the kernel would refuse to take it back, or kill for it. Then it
    /// stays until a later call or run finds less.
    ///
    /// # Cancellation
    /// Init's room stays as it is, until a later call or run.
    pub(crate) async fn lend<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(held) = self.held().await else {
            return work.await;
        };
        let is_full = held > self.most();
        if !is_full {
            // What an earlier call could not take back.
            self.set(self.limits).await;
            return work.await;
        }
        let memory = self.limit().saturating_add(EXTRA_BYTES);
        self.set(Limits {
            memory: ByteSize::bytes(memory),
            ..self.limits
        })
        .await;
        let done = work.await;
        self.take_back(self.held().await).await;
        done
    }

    /// Gives the session the limit that it was made with, where that is more than
    /// is held.
    pub(crate) async fn take_back(&self, held: Option<u64>) {
        let fits = |held: u64| held.saturating_add(SLACK_BYTES) <= self.limit();
        if held.is_some_and(fits) {
            self.set(self.limits).await;
        } else {
            tracing::debug!(sandbox = %self.sandbox, held, "the memory limit is left as it is");
        }
    }

    /// Nothing depends on it: where it fails, a later call does it.
    async fn set(&self, limits: Limits) {
        let set = self.engine.set_limits(&self.sandbox, &limits);
        match timeout(LOOK, set).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(sandbox = %self.sandbox, %error, "the memory limit stays");
            }
            Err(_) => tracing::debug!(sandbox = %self.sandbox, "the memory limit stays: late"),
        }
    }

    /// What cannot be dropped. `None`: the engine does not know.
    async fn held(&self) -> Option<u64> {
        let look = self.engine.counters(&self.sandbox);
        let counters = timeout(LOOK, look).await.ok()?;
        counters.ok().map(|counters| counters.memory_bytes)
    }

    const fn limit(&self) -> u64 {
        self.limits.memory.as_bytes()
    }

    /// What may be held for init to write more.
    fn most(&self) -> u64 {
        let limit = self.limit();
        limit - RESERVE_BYTES.min(limit / RESERVE_PART)
    }
}

/// So much does not fit beside what is held.
#[derive(Debug)]
pub(crate) struct Full {
    limit: ByteSize,
}

impl Full {
    /// What the client is told.
    pub(crate) fn of(&self, what: &str) -> Failure {
        let message = format!(
            "no room for {what}: the session's memory limit of {} is reached; files count",
            self.limit
        );
        Failure::new(FailureKind::NoSpace, message).hint(
            "remove files: `isol8 session rm <name>:/path`, or begin a session with more `--memory`",
        )
    }
}

/// What may be sent to init of one copy, in steps.
#[derive(Debug)]
pub(crate) struct Ahead<'a> {
    memory: &'a Memory,
    /// Until the next look.
    left: u64,
}

impl<'a> Ahead<'a> {
    pub(crate) const fn new(memory: &'a Memory) -> Self {
        Self { memory, left: 0 }
    }

    /// Before a file or folder: all of it must fit, beside the one whose place it
    /// takes.
    pub(crate) async fn entry(&mut self, bytes: u64) -> Result<(), Full> {
        let all = bytes.saturating_add(ENTRY_BYTES);
        self.look(all).await?;
        self.left = self.left.saturating_sub(ENTRY_BYTES);
        Ok(())
    }

    /// Before data of an entry.
    pub(crate) async fn data(&mut self, bytes: usize) -> Result<(), Full> {
        let bytes = bytes as u64;
        self.look(bytes).await?;
        self.left = self.left.saturating_sub(bytes);
        Ok(())
    }

    async fn look(&mut self, bytes: u64) -> Result<(), Full> {
        if bytes <= self.left {
            return Ok(());
        }
        let Some(held) = self.memory.held().await else {
            self.left = STEP_BYTES;
            return Ok(());
        };
        let free = self.memory.most().saturating_sub(held);
        if free < bytes {
            let limit = self.memory.limits.memory;
            return Err(Full { limit });
        }
        self.left = free.min(STEP_BYTES);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use isol8_core::{
        ids::DaemonId,
        quantity::{CpuMillis, Pids},
        sandbox::EngineKind,
    };
    use isol8_engine::fake::{FakeEngine, Fault, Step};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn id() -> SandboxId {
        SandboxId::parse("00112233445566778899aabbccddeeff").expect("an id")
    }

    fn fake() -> FakeEngine {
        let daemon = DaemonId::parse("0123456789abcdef").expect("an id");
        FakeEngine::new(EngineKind::Native, daemon)
    }

    fn memory(fake: &FakeEngine, mib: u64) -> Memory {
        let limits = Limits {
            memory: ByteSize::mib(mib),
            cpu: CpuMillis::new(1000).expect("a share"),
            pids: Pids::new(64).expect("a count"),
        };
        Memory {
            engine: Arc::new(fake.clone()),
            sandbox: id(),
            limits,
            files_bytes: 4096 * MIB,
        }
    }

    /// Of a sandbox of which nothing is known: everything goes.
    pub(crate) fn unknown() -> Memory {
        memory(&fake(), 512)
    }

    /// A sandbox of 128 MiB that holds so much.
    pub(crate) fn holding(mib: u64) -> (FakeEngine, Memory) {
        let fake = fake();
        fake.add_stranger(id(), DaemonId::random());
        fake.hold(&id(), mib * MIB);
        let memory = memory(&fake, 128);
        (fake, memory)
    }

    fn limit_mib(fake: &FakeEngine) -> Option<u64> {
        let limits = fake.limits_of(&id());
        limits.map(|limits| limits.memory.as_bytes() / MIB)
    }

    fn looks(fake: &FakeEngine) -> usize {
        let steps = fake.steps();
        steps.iter().filter(|step| **step == Step::Counters).count()
    }

    #[tokio::test]
    async fn all_but_the_reserve_is_for_files() {
        let (_fake, memory) = holding(100);
        let mut ahead = Ahead::new(&memory);
        let fits = 20 * MIB - ENTRY_BYTES;
        ahead.entry(fits).await.expect("it fits");
        let refused = ahead
            .entry(fits + 1)
            .await
            .expect_err("too large")
            .of("`x`");
        assert_eq!(refused.kind, FailureKind::NoSpace);
        let told = refused.to_string();
        assert!(told.contains("memory limit of 128m"), "{told}");
        assert!(told.contains("`x`"), "{told}");
        let endless = ahead.entry(u64::MAX).await;
        assert!(endless.is_err());
    }

    #[test]
    fn of_a_small_limit_the_reserve_is_a_part() {
        let fake = fake();
        for (limit, most) in [(512, 504), (64, 56), (32, 28)] {
            assert_eq!(memory(&fake, limit).most(), most * MIB, "{limit}");
        }
    }

    #[tokio::test]
    async fn each_step_is_looked_at_again() {
        let (fake, memory) = holding(20);
        let mut ahead = Ahead::new(&memory);
        ahead.entry(64 * MIB).await.expect("it fits");
        assert_eq!(looks(&fake), 1);
        let piece = 256 << 10;
        for _ in 0..15 {
            ahead.data(piece).await.expect("it fits");
        }
        assert_eq!(looks(&fake), 1, "less than a step");
        ahead.data(piece).await.expect("it fits");
        assert_eq!(looks(&fake), 2);
        // A program takes the rest meanwhile.
        fake.hold(&id(), 120 * MIB);
        let mut went = 0;
        while ahead.data(piece).await.is_ok() {
            went += piece as u64;
            assert!(went <= STEP_BYTES, "it was not looked at");
        }
    }

    #[tokio::test]
    async fn small_entries_share_a_look() {
        let (fake, memory) = holding(20);
        let mut ahead = Ahead::new(&memory);
        for _ in 0..100 {
            ahead.entry(10).await.expect("it fits");
            ahead.data(10).await.expect("it fits");
        }
        assert_eq!(looks(&fake), 1);
        fake.hold(&id(), 121 * MIB);
        let mut ahead = Ahead::new(&memory);
        assert!(ahead.entry(0).await.is_err(), "names take memory too");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_knows_stops_nothing() {
        let memory = unknown();
        let mut ahead = Ahead::new(&memory);
        ahead.entry(u64::MAX).await.expect("it goes");
        let (fake, memory) = holding(127);
        fake.plan_always(Step::Counters, Fault::Hang);
        let mut ahead = Ahead::new(&memory);
        ahead.entry(1).await.expect("it goes");
        assert_eq!(memory.lend(async { 7 }).await, 7);
        assert_eq!(limit_mib(&fake), None);
    }

    #[tokio::test(start_paused = true)]
    async fn init_has_room_in_a_full_session() {
        let (fake, memory) = holding(126);
        let within = memory.lend(async { limit_mib(&fake) }).await;
        assert_eq!(within, Some(144));
        assert_eq!(limit_mib(&fake), Some(128), "it is taken back");
        // Below the reserve, and where it is refused or late, nothing changes.
        fake.plan(Step::SetLimits, Fault::refuse());
        let within = memory.lend(async { limit_mib(&fake) }).await;
        assert_eq!(within, Some(128));
        fake.plan(Step::SetLimits, Fault::Hang);
        let within = memory.lend(async { limit_mib(&fake) }).await;
        assert_eq!(within, Some(128));
        fake.hold(&id(), 120 * MIB);
        let within = memory.lend(async { limit_mib(&fake) }).await;
        assert_eq!(within, Some(128));
    }

    /// cgroup v2 kills for a limit below what is held.
    #[tokio::test]
    async fn what_is_held_is_never_cut() {
        let (fake, memory) = holding(128);
        memory.lend(async {}).await;
        assert_eq!(limit_mib(&fake), Some(144), "too much is held");
        memory.take_back(None).await;
        memory.take_back(Some(127 * MIB + 1)).await;
        assert_eq!(limit_mib(&fake), Some(144));
        memory.take_back(Some(127 * MIB)).await;
        assert_eq!(limit_mib(&fake), Some(128), "a run has its own limit");
        memory.lend(async {}).await;
        fake.hold(&id(), 50 * MIB);
        let within = memory.lend(async { limit_mib(&fake) }).await;
        assert_eq!(within, Some(128), "a later call takes it back");
    }
}
