//! A DNS server of a test's own: scripted answers, every question on record.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Questions for an address.
const A: u16 = 1;
const AAAA: u16 = 28;

/// "No such name".
const NXDOMAIN: u8 = 3;

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Zone {
    /// Always these addresses.
    Fixed(Vec<IpAddr>),
    /// Another answer each time a client asks for its IPv4 addresses, in turn.
    /// Answers may not be kept (TTL 0).
    Turns(Vec<IpAddr>),
}

#[derive(Debug, Default)]
struct State {
    zones: HashMap<String, Zone>,
    /// What names that nobody gave an address stand for.
    others: Vec<IpAddr>,
    asked: Vec<String>,
    turns: usize,
}

/// A resolver that answers on UDP until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    state: Arc<Mutex<State>>,
    socket: UdpSocket,
}

impl Resolver {
    /// Answers at an address.
    ///
    /// # Errors
    /// The address is taken.
    pub fn listen(at: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(at)?;
        let state = Arc::new(Mutex::new(State::default()));
        let (wire, script) = (socket.try_clone()?, Arc::clone(&state));
        thread::spawn(move || answer_all(&wire, &script));
        Ok(Self { state, socket })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what a name stands for, from now on.
    pub fn set(&self, name: &str, zone: Zone) {
        self.state().zones.insert(name.to_owned(), zone);
    }

    /// Gives every other name an address too.
    pub fn answer_everything(&self, address: IpAddr) {
        self.state().others = vec![address];
    }

    /// Names that were asked for since the last call, each question once: a
    /// client that wants both kinds of address asks twice.
    #[must_use]
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // An empty datagram from itself is the sign to end.
        if let Ok(mut address) = self.socket.local_addr() {
            if address.ip().is_unspecified() {
                address.set_ip(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
            }
            self.socket.send_to(&[], address).ok();
        }
    }
}

fn answer_all(wire: &UdpSocket, script: &Mutex<State>) {
    let mut packet = [0; 1500];
    while let Ok((length @ 1.., from)) = wire.recv_from(&mut packet) {
        let mut state = script.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = answer(&packet[..length], &mut state) {
            wire.send_to(&reply, from).ok();
        }
    }
}

/// The answer to one packet, or nothing for what is no question.
fn answer(packet: &[u8], state: &mut State) -> Option<Vec<u8>> {
    let (name, kind, end) = question(packet)?;
    state.asked.push(name.clone());
    let addresses = match state.zones.get(&name) {
        Some(Zone::Fixed(addresses)) => Some(addresses.clone()),
        Some(Zone::Turns(addresses)) => {
            let turn = addresses.get(state.turns % addresses.len().max(1)).copied();
            // Both kinds are asked for one lookup; one of them turns it.
            state.turns += usize::from(kind == A);
            Some(turn.into_iter().collect())
        }
        None if state.others.is_empty() => None,
        None => Some(state.others.clone()),
    };
    let code = if addresses.is_some() { 0 } else { NXDOMAIN };
    let records: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let mut reply = packet[..2].to_vec();
    // An answer, authoritative, recursion as asked and available.
    reply.extend([0x84 | (packet[2] & 1), 0x80 | code, 0, 1]);
    reply.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    reply.extend([0, 0, 0, 0]);
    reply.extend_from_slice(&packet[12..end]);
    for record in records {
        // The name of the question again, one class, no time to live.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 0]);
        reply.extend(u16::try_from(record.len()).ok()?.to_be_bytes());
        reply.extend(record);
    }
    Some(reply)
}

/// Name in lower case, kind, and where the question ends.
fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = packet.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
    let kind = packet.get(at..at + 2)?;
    packet.get(at + 2..at + 4)?;
    Some((
        labels.join("."),
        u16::from_be_bytes([kind[0], kind[1]]),
        at + 4,
    ))
}
