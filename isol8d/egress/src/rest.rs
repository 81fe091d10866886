//! The rest of a long body, which needs no HTTP: so many bytes from an origin
//! to the program.
//!
//! ```text
//!  Answer: hyper's origin lets go ▶ what it had read goes out by hyper ▶ Rest
//!  Lane:   a rest waits ▶ hyper has flushed all before it
//!  connection: takes hyper apart ▶ Rest::run ▶ the next request, with a new hyper
//! ```

use std::future::pending;

use tokio::net::{TcpStream, tcp::ReadHalf};

use crate::{
    exchange::Exchange,
    flow::{Clock, Flow, Toll},
    lane::Heading,
    limits::Limits,
    meter::Metered,
    pipe::Pipes,
};

/// Bodies from here on are handed over. Below, hyper is done as soon.
pub(crate) const LEAST_BYTES: u64 = 512 << 10;

/// What a body needs to be handed over.
#[derive(Debug)]
pub(crate) struct Onward {
    pub(crate) heading: Heading,
    pub(crate) pipes: Pipes,
    /// The client keeps the connection when the answer is over.
    pub(crate) keep_alive: bool,
}

#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) exchange: Exchange,
    pub(crate) link: Metered<TcpStream>,
    pub(crate) bytes: u64,
    pub(crate) onward: Onward,
}

impl Rest {
    /// Sends it to its end; true when another request may follow.
    pub(crate) async fn run(mut self, client: &mut TcpStream, limits: &Limits) -> bool {
        let clock = Clock::new();
        let Metered { stream, meter } = &mut self.link;
        let (mut client_read, client_write) = client.split();
        let (link_read, _) = stream.split();
        let mut flow =
            Flow::new(link_read, client_write, Toll::In(meter), &clock).limited(self.bytes);
        tokio::select! {
            moved = flow.move_all(&self.onward.pipes) => {
                // An origin that ended before its time cut the answer off.
                if moved.is_ok() && flow.left() == 0 {
                    self.exchange.finish();
                    return self.onward.keep_alive;
                }
            }
            () = gone(&mut client_read) => {}
            () = clock.stalled(limits.stall) => {
                self.exchange.cut_off("no byte passed for too long");
            }
        }
        false
    }
}

/// Ready when the client ended its side, as hyper would see it. A client that
/// asks for more already is only seen to leave when bytes cannot be sent.
async fn gone(client: &mut ReadHalf<'_>) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        pending::<()>().await;
    }
}
