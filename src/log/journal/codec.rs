//! Records as bytes and back. Self-contained: a record needs no other to be read.
//!
//! A record is the time, the kind, the connection (id, generation, client id, node), the labels, and then what the kind has to say. Numbers
//! that are usually small are LEB128, strings carry their length, times are eight bytes. What a number stands for never changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::UnixNanos;
use crate::close::Cause;
use crate::event::{
    Connected, ConnectionInfo, Disconnected, Event, EventKind, KindTag, Liveness, Payload, Record, Replaces, Stats,
    Unacked,
};
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::position::Offset;

/// The bytes are intact and mean nothing to this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not understood: {0}")]
pub(super) struct Undecodable(&'static str);

type Decoded<T> = Result<T, Undecodable>;

/// No less than what [`encode`] appends for an event.
pub(super) fn most_bytes(event: &Event) -> usize {
    let labels = |labels: &Labels| 10 + labels.iter().map(|(k, v)| 20 + k.len() + v.len()).sum::<usize>();
    let connection = &event.connection;
    let kind = match &event.kind {
        EventKind::Connected(_) => 96 + connection.subprotocol.len(),
        EventKind::Disconnected(end) => {
            192 + end.reason.len() + end.unacked.ids.iter().map(|id| 10 + id.len()).sum::<usize>()
        }
        EventKind::MessageReceived(payload) => 16 + payload.len(),
        EventKind::LabelsChanged { previous } => labels(previous),
        EventKind::MessageExpired { message_id, .. } => 32 + message_id.len(),
        EventKind::Suspected { .. } | EventKind::Recovered { .. } | EventKind::HeartbeatChanged(_) => 32,
    };
    64 + connection.client_id.as_str().len() + connection.node_id.len() + labels(&event.labels) + kind
}

/// Appends an event.
pub(super) fn encode(event: &Event, out: &mut Vec<u8>) {
    let info = &event.connection;
    out.extend_from_slice(&event.time.to_le_bytes());
    out.push(tag_number(event.kind.tag()));
    out.extend_from_slice(&info.connection_id.to_bytes());
    out.extend_from_slice(&info.generation().to_le_bytes());
    put_text(out, info.client_id.as_str());
    put_text(out, &info.node_id);
    put_labels(out, &event.labels);
    match &event.kind {
        EventKind::Connected(connected) => {
            out.extend_from_slice(&info.connect_time.to_le_bytes());
            put_address(out, info.remote_address);
            put_text(out, info.subprotocol);
            put_cadence(out, connected.cadence);
            out.push(match connected.state {
                Liveness::Alive => 1,
                Liveness::Suspect => 2,
            });
            out.extend_from_slice(&connected.replaces.generation().to_le_bytes());
        }
        EventKind::Suspected { last_seen, socket_lost } => {
            out.extend_from_slice(&last_seen.to_le_bytes());
            out.push(u8::from(*socket_lost));
        }
        EventKind::Recovered { suspected_for, resumed } => {
            put_span(out, *suspected_for);
            out.push(u8::from(*resumed));
        }
        EventKind::Disconnected(end) => put_end(out, end),
        EventKind::MessageReceived(payload) => {
            out.push(match payload {
                Payload::Text(_) => 1,
                Payload::Binary(_) => 2,
            });
            put_number(out, payload.len() as u64);
            out.extend_from_slice(payload.bytes());
        }
        EventKind::LabelsChanged { previous } => put_labels(out, previous),
        EventKind::HeartbeatChanged(cadence) => put_cadence(out, *cadence),
        EventKind::MessageExpired { message_id, send_time } => {
            put_text(out, message_id);
            out.extend_from_slice(&send_time.to_le_bytes());
        }
    }
}

/// The time of an encoded event, without reading the rest.
pub(super) fn time_of(bytes: &[u8]) -> Option<UnixNanos> {
    bytes.first_chunk().map(|time| UnixNanos::from_le_bytes(*time))
}

/// Whether an encoded event may change who is connected; the others are most of a log.
pub(super) fn is_message(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&tag_number(KindTag::MessageReceived))
}

/// Reads an event back, whole.
pub(super) fn decode(offset: Offset, bytes: &[u8]) -> Decoded<Record> {
    let mut input = Input(bytes);
    let time = input.time()?;
    let tag = input.byte()?;
    let tag = KindTag::ALL.into_iter().find(|known| tag_number(*known) == tag).ok_or(Undecodable("the kind"))?;
    let connection_id = ConnectionId::from_bytes(*input.chunk()?);
    let generation = input.time()?;
    let client_id = ClientId::named(input.text()?).map_err(|_| Undecodable("the client id"))?;
    let node_id: Arc<str> = input.text()?.into();
    let labels = input.labels()?;
    let mut about = (0, None, "");
    let kind = match tag {
        KindTag::Connected => {
            about = (input.time()?, input.address()?, subprotocol(input.text()?)?);
            let cadence = input.cadence()?;
            let state = match input.byte()? {
                1 => Liveness::Alive,
                2 => Liveness::Suspect,
                _ => return Err(Undecodable("the state")),
            };
            let replaces = match input.time()? {
                0 => Replaces::Nothing,
                generation => Replaces::Generation(generation),
            };
            EventKind::Connected(Connected { cadence, state, replaces })
        }
        KindTag::Suspected => EventKind::Suspected { last_seen: input.time()?, socket_lost: input.flag()? },
        KindTag::Recovered => EventKind::Recovered { suspected_for: input.span()?, resumed: input.flag()? },
        KindTag::Disconnected => EventKind::Disconnected(Box::new(input.end()?)),
        KindTag::MessageReceived => {
            let kind = input.byte()?;
            let bytes = input.sized()?;
            EventKind::MessageReceived(match kind {
                1 if std::str::from_utf8(bytes).is_ok() => Payload::Text(Bytes::copy_from_slice(bytes)),
                2 => Payload::Binary(Bytes::copy_from_slice(bytes)),
                _ => return Err(Undecodable("the payload")),
            })
        }
        KindTag::LabelsChanged => EventKind::LabelsChanged { previous: input.labels()? },
        KindTag::HeartbeatChanged => EventKind::HeartbeatChanged(input.cadence()?),
        KindTag::MessageExpired => {
            EventKind::MessageExpired { message_id: input.text()?.into(), send_time: input.time()? }
        }
    };
    if !input.0.is_empty() {
        return Err(Undecodable("what follows the event"));
    }
    let (connect_time, remote_address, subprotocol) = about;
    let info = ConnectionInfo::new(client_id, connection_id, node_id, connect_time, remote_address, subprotocol);
    info.set_generation(generation);
    Ok(Record { offset, event: Event { time, connection: Arc::new(info), labels, kind } })
}

const fn tag_number(tag: KindTag) -> u8 {
    match tag {
        KindTag::Connected => 1,
        KindTag::Suspected => 2,
        KindTag::Recovered => 3,
        KindTag::Disconnected => 4,
        KindTag::MessageReceived => 5,
        KindTag::LabelsChanged => 6,
        KindTag::HeartbeatChanged => 7,
        KindTag::MessageExpired => 8,
    }
}

const fn cause_number(cause: Cause) -> u8 {
    match cause {
        Cause::ClientClosed => 1,
        Cause::ConnectionLost => 2,
        Cause::HeartbeatTimeout => 3,
        Cause::Kicked => 4,
        Cause::Replaced => 5,
        Cause::SlowClient => 6,
        Cause::RateLimited => 7,
        Cause::ProtocolError => 8,
        Cause::TokenExpired => 9,
        Cause::Drained => 10,
        Cause::NodeRestarted => 11,
        Cause::NodeLost => 12,
        Cause::InternalError => 13,
        Cause::Overloaded => 14,
    }
}

/// Names of subprotocols live for ever in the domain's type. Each is kept once, and there are only as many as versions of this software ever
/// wrote, so this stays tiny; the bound is against a file from elsewhere.
fn subprotocol(name: &str) -> Decoded<&'static str> {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    const MOST: usize = 64;
    if name.is_empty() {
        return Ok("");
    }
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name) {
        return Ok(known);
    }
    if names.len() == MOST || name.len() > 128 {
        return Err(Undecodable("the subprotocol"));
    }
    let kept: &'static str = Box::leak(name.into());
    names.push(kept);
    Ok(kept)
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    put_number(out, labels.iter().count() as u64);
    for (key, value) in labels.iter() {
        put_text(out, key);
        put_text(out, value);
    }
}

fn put_cadence(out: &mut Vec<u8>, cadence: Cadence) {
    put_number(out, cadence.interval.into());
    put_number(out, cadence.timeout.into());
}

fn put_span(out: &mut Vec<u8>, span: Duration) {
    put_number(out, span.as_secs());
    put_number(out, span.subsec_nanos().into());
}

fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    let Some(address) = address else { return out.push(0) };
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_le_bytes());
}

fn put_end(out: &mut Vec<u8>, end: &Disconnected) {
    out.push(cause_number(end.cause));
    out.extend_from_slice(&end.code.to_le_bytes());
    put_text(out, &end.reason);
    put_span(out, end.connected_for);
    out.push(u8::from(end.stats.is_some()));
    if let Some(stats) = &end.stats {
        out.extend_from_slice(&stats.last_seen.to_le_bytes());
        out.push(u8::from(stats.round_trip.is_some()));
        if let Some(round_trip) = stats.round_trip {
            put_span(out, round_trip);
        }
        put_number(out, stats.missed_heartbeats.into());
        for number in [stats.messages_in, stats.messages_out, stats.bytes_in, stats.bytes_out] {
            put_number(out, number);
        }
    }
    put_number(out, end.unacked.count);
    put_number(out, end.unacked.ids.len() as u64);
    for id in &end.unacked.ids {
        put_text(out, id);
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Undecodable("it ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Decoded<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Undecodable("it ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Decoded<u8> {
        self.chunk::<1>().map(|[byte]| *byte)
    }

    fn flag(&mut self) -> Decoded<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Undecodable("a flag")),
        }
    }

    fn time(&mut self) -> Decoded<i64> {
        self.chunk().map(|bytes| i64::from_le_bytes(*bytes))
    }

    fn number(&mut self) -> Decoded<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Undecodable("a number"))
    }

    fn small(&mut self) -> Decoded<u32> {
        u32::try_from(self.number()?).map_err(|_| Undecodable("a number"))
    }

    /// Bytes with their length before them; never more than there are.
    fn sized(&mut self) -> Decoded<&'a [u8]> {
        let length = usize::try_from(self.number()?).map_err(|_| Undecodable("a length"))?;
        self.take(length)
    }

    fn text(&mut self) -> Decoded<&'a str> {
        std::str::from_utf8(self.sized()?).map_err(|_| Undecodable("a text"))
    }

    fn labels(&mut self) -> Decoded<Labels> {
        let mut pairs = Vec::new();
        // Each takes two bytes at least, so a count that lies ends with the input.
        for _ in 0..self.number()? {
            pairs.push((self.text()?, self.text()?));
        }
        Labels::new(pairs).map_err(|_| Undecodable("the labels"))
    }

    fn cadence(&mut self) -> Decoded<Cadence> {
        Ok(Cadence { interval: self.small()?, timeout: self.small()? })
    }

    fn span(&mut self) -> Decoded<Duration> {
        match (self.number()?, self.small()?) {
            (seconds, nanos @ 0..1_000_000_000) => Ok(Duration::new(seconds, nanos)),
            _ => Err(Undecodable("a duration")),
        }
    }

    fn address(&mut self) -> Decoded<Option<SocketAddr>> {
        let ip: IpAddr = match self.byte()? {
            0 => return Ok(None),
            4 => (*self.chunk::<4>()?).into(),
            6 => (*self.chunk::<16>()?).into(),
            _ => return Err(Undecodable("the address")),
        };
        Ok(Some(SocketAddr::new(ip, u16::from_le_bytes(*self.chunk()?))))
    }

    fn end(&mut self) -> Decoded<Disconnected> {
        let cause = self.byte()?;
        let cause = Cause::ALL.into_iter().find(|known| cause_number(*known) == cause);
        let cause = cause.ok_or(Undecodable("the cause"))?;
        let code = u16::from_le_bytes(*self.chunk()?);
        let reason = self.text()?.into();
        let connected_for = self.span()?;
        let stats = if self.flag()? { Some(self.stats()?) } else { None };
        let count = self.number()?;
        let mut ids = Vec::new();
        for _ in 0..self.number()? {
            ids.push(self.text()?.into());
        }
        Ok(Disconnected { cause, code, reason, connected_for, stats, unacked: Unacked { ids, count } })
    }

    fn stats(&mut self) -> Decoded<Stats> {
        Ok(Stats {
            last_seen: self.time()?,
            round_trip: if self.flag()? { Some(self.span()?) } else { None },
            missed_heartbeats: self.small()?,
            messages_in: self.number()?,
            messages_out: self.number()?,
            bytes_in: self.number()?,
            bytes_out: self.number()?,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        btree_map("[a-zé]{1,8}", "[^\\p{Cc}]{0,8}", 0..4).prop_map(|pairs| Labels::new(pairs).expect("good labels"))
    }

    fn cadence() -> impl Strategy<Value = Cadence> {
        (any::<u32>(), any::<u32>()).prop_map(|(interval, timeout)| Cadence { interval, timeout })
    }

    fn span() -> impl Strategy<Value = Duration> {
        (any::<u64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    }

    fn stats() -> impl Strategy<Value = Stats> {
        (any::<i64>(), option::of(span()), any::<u32>(), any::<[u64; 4]>()).prop_map(
            |(last_seen, round_trip, missed, n)| Stats {
                last_seen,
                round_trip,
                missed_heartbeats: missed,
                messages_in: n[0],
                messages_out: n[1],
                bytes_in: n[2],
                bytes_out: n[3],
            },
        )
    }

    fn end() -> impl Strategy<Value = Disconnected> {
        let cause = prop::sample::select(Cause::ALL.to_vec());
        let ids = vec("\\PC{0,12}".prop_map(|id: String| id.into()), 0..5);
        (cause, any::<u16>(), "\\PC{0,20}", span(), option::of(stats()), any::<u64>(), ids).prop_map(
            |(cause, code, reason, connected_for, stats, count, ids)| Disconnected {
                cause,
                code,
                reason: reason.into(),
                connected_for,
                stats,
                unacked: Unacked { ids, count },
            },
        )
    }

    fn kind() -> impl Strategy<Value = EventKind> {
        let replaces = prop_oneof![Just(Replaces::Nothing), (1..i64::MAX).prop_map(Replaces::Generation),];
        let state = prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect)];
        prop_oneof![
            (cadence(), state, replaces).prop_map(|(cadence, state, replaces)| EventKind::Connected(Connected {
                cadence,
                state,
                replaces
            })),
            any::<(i64, bool)>().prop_map(|(last_seen, socket_lost)| EventKind::Suspected { last_seen, socket_lost }),
            (span(), any::<bool>())
                .prop_map(|(suspected_for, resumed)| EventKind::Recovered { suspected_for, resumed }),
            end().prop_map(|end| EventKind::Disconnected(Box::new(end))),
            any::<String>().prop_map(|text| EventKind::MessageReceived(Payload::Text(text.into()))),
            vec(any::<u8>(), 0..200).prop_map(|bytes| EventKind::MessageReceived(Payload::Binary(bytes.into()))),
            labels().prop_map(|previous| EventKind::LabelsChanged { previous }),
            cadence().prop_map(EventKind::HeartbeatChanged),
            ("\\PC{0,20}", any::<i64>())
                .prop_map(|(id, send_time)| EventKind::MessageExpired { message_id: id.into(), send_time }),
        ]
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let about =
            (any::<i64>(), option::of(any::<SocketAddr>()), prop::sample::select(vec!["", "a", "heartwire.v1.json"]));
        let names = ("[^\\p{Cc}]{1,20}", any::<[u8; 16]>(), "\\PC{0,10}");
        (any::<i64>(), any::<i64>(), any::<i64>(), names, about, labels(), kind()).prop_map(
            |(offset, time, generation, (client, id, node), about, labels, kind)| {
                // Only a `Connected` carries them.
                let (connect_time, address, subprotocol) =
                    if matches!(kind, EventKind::Connected(_)) { about } else { (0, None, "") };
                let address = address.map(|address| SocketAddr::new(address.ip(), address.port()));
                let client = ClientId::named(&client).expect("a good id");
                let id = ConnectionId::from_bytes(id);
                let info = ConnectionInfo::new(client, id, node.into(), connect_time, address, subprotocol);
                info.set_generation(generation);
                Record { offset, event: Event { time, connection: Arc::new(info), labels, kind } }
            },
        )
    }

    /// Everything a record says, payload too, which `Debug` leaves out.
    pub(crate) fn shown(record: &Record) -> String {
        let payload = match &record.event.kind {
            EventKind::MessageReceived(payload) => payload.bytes().clone(),
            _ => Bytes::new(),
        };
        format!("{record:?} {payload:?}")
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was(record in record()) {
            let mut bytes = vec![];
            encode(&record.event, &mut bytes);
            prop_assert!(bytes.len() <= most_bytes(&record.event));
            prop_assert_eq!(time_of(&bytes), Some(record.event.time));
            let read = decode(record.offset, &bytes).expect("understood");
            prop_assert_eq!(shown(&read), shown(&record));
        }

        #[test]
        fn what_is_read_from_any_bytes_is_written_as_it_was_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            // Most random bytes end at the kind; a known one lets more of them through.
            for tag in 0..=9 {
                let mut bytes = bytes.clone();
                if let Some(at) = bytes.get_mut(8) { *at = tag }
                let _ = decode(1, &bytes);
            }
        }

        #[test]
        fn a_record_cut_short_or_grown_is_refused(record in record(), cut in any::<prop::sample::Index>(), more: u8) {
            let mut bytes = vec![];
            encode(&record.event, &mut bytes);
            prop_assert!(decode(1, &bytes[..cut.index(bytes.len())]).is_err());
            bytes.push(more);
            prop_assert!(decode(1, &bytes).is_err());
        }

        #[test]
        fn a_changed_byte_never_panics(record in record(), at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = vec![];
            encode(&record.event, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(1, &bytes);
        }
    }

    #[test]
    fn a_count_that_lies_allocates_nothing_for_it() {
        let mut bytes = vec![0; 8];
        bytes.push(tag_number(KindTag::MessageReceived));
        bytes.extend([0; 24]);
        bytes.extend([1, b'a', 0]);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert_eq!(decode(1, &bytes).err(), Some(Undecodable("it ends too soon")));
    }
}
