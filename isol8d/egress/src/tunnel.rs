//! A CONNECT after its 200: the ClientHello is read, then bytes pass both ways.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncWriteExt, split},
    net::TcpStream,
    time::timeout,
};
use tokio_util::either::Either;

use crate::{
    exchange::Exchange,
    flow::{Clock, Flow, Toll},
    hello,
    lane::Heading,
    limits::Limits,
    meter::Metered,
    net::Link,
    pipe::Pipes,
};

/// A connection to an origin that waits for the client's TLS.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) exchange: Exchange,
    pub(crate) link: Metered<Link>,
    pub(crate) heading: Heading,
    pub(crate) pipes: Pipes,
}

impl Tunnel {
    /// Runs to the end of both directions. `begun` is what the client sent
    /// already. Dropping it midway ends both connections.
    pub(crate) async fn run(
        &mut self,
        client: &mut TcpStream,
        begun: &mut BytesMut,
        limits: &Limits,
    ) {
        let hello = hello::read(client, begun, &self.heading.host);
        match timeout(limits.hello, hello).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return self.exchange.block(why),
            Err(_) => {
                let why = "the TLS handshake did not begin in time";
                return self.exchange.block(why);
            }
        }
        let clock = Clock::new();
        let both = async {
            self.link.write_all(begun).await?;
            self.link.flush().await?;
            clock.touch();
            *begun = BytesMut::new();
            carry(client, &mut self.link, &self.pipes, &clock).await
        };
        tokio::select! {
            ended = both => match ended {
                Ok(()) => self.exchange.finish(),
                Err(error) if clock.is_farewell(&error) => self.exchange.finish(),
                // Its end is in the state of the run, or it broke.
                Err(_) => {}
            },
            () = clock.stalled(limits.stall) => {
                self.exchange.cut_off("no byte passed for too long");
            }
        }
    }
}

async fn carry(
    client: &mut TcpStream,
    link: &mut Metered<Link>,
    pipes: &Pipes,
    clock: &Clock,
) -> io::Result<()> {
    let Metered { stream, meter } = link;
    let (client_read, client_write) = client.split();
    let ended = match stream {
        Either::Left(stream) => {
            let (link_read, link_write) = stream.split();
            let out = Flow::new(client_read, link_write, Toll::Out(meter), clock);
            let back = Flow::new(link_read, client_write, Toll::In(meter), clock);
            tokio::try_join!(out.move_to_end(pipes), back.move_to_end(pipes))
        }
        Either::Right(stream) => {
            let (link_read, link_write) = split(stream);
            let out = Flow::new(client_read, link_write, Toll::Out(meter), clock);
            let back = Flow::new(link_read, client_write, Toll::In(meter), clock);
            tokio::try_join!(out.copy_to_end(), back.copy_to_end())
        }
    };
    ended.map(|_| ())
}

#[cfg(test)]
mod tests;
