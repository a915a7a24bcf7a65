//! Where frames and messages end in what a client sends: the one thing about its buffers that tungstenite's machine does not tell.

/// Follows frame headers (RFC 6455, 5.2) through bytes that come in any pieces. It checks nothing: the machine reads the same bytes, and ends
/// the connection over a bad one.
#[derive(Debug, Default)]
pub(super) struct Boundaries {
    next: Next,
    /// The frame that is being read ends its message.
    is_final: bool,
    /// The frame that is being read may stand between the fragments of a message.
    is_control: bool,
    /// A message has begun whose last fragment has not come.
    fragmented: bool,
}

/// What the next byte is.
#[derive(Debug, Default, Clone, Copy)]
enum Next {
    /// The first of a frame.
    #[default]
    Opcode,
    /// The second: whether there is a mask, and the length or how it is told.
    Length,
    /// One of so many that tell the length, whose part so far follows; and what the mask takes.
    Extended { left: u8, length: u64, mask: u64 },
    /// One of so many of the mask and the payload.
    Skipped(u64),
}

const FINAL: u8 = 0x80;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const MASK_BYTES: u64 = 4;

impl Boundaries {
    /// Whether all that came so far is whole messages and whole control frames.
    pub(super) const fn between_messages(&self) -> bool {
        matches!(self.next, Next::Opcode) && !self.fragmented
    }

    /// These bytes came next.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            let step = match self.next {
                Next::Opcode => {
                    self.is_final = byte & FINAL != 0;
                    self.is_control = byte & CONTROL != 0;
                    Next::Length
                }
                Next::Length => {
                    let mask = if byte & MASKED == 0 { 0 } else { MASK_BYTES };
                    match byte & !MASKED {
                        126 => Next::Extended { left: 2, length: 0, mask },
                        127 => Next::Extended { left: 8, length: 0, mask },
                        length => Next::Skipped(u64::from(length) + mask),
                    }
                }
                Next::Extended { left, length, mask } => match (left - 1, length << 8 | u64::from(byte)) {
                    (0, length) => Next::Skipped(length.saturating_add(mask)),
                    (left, length) => Next::Extended { left, length, mask },
                },
                Next::Skipped(left) => {
                    let skipped = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes = &bytes[skipped..];
                    self.skip(left - skipped as u64);
                    continue;
                }
            };
            bytes = rest;
            match step {
                Next::Skipped(left) => self.skip(left),
                step => self.next = step,
            }
        }
    }

    /// So many bytes are left of the frame.
    fn skip(&mut self, left: u64) {
        if left > 0 {
            self.next = Next::Skipped(left);
            return;
        }
        self.next = Next::Opcode;
        if !self.is_control {
            self.fragmented = !self.is_final;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

    /// A frame as a library makes it.
    fn frame(opcode: OpCode, is_final: bool, masked: bool, payload: usize) -> Vec<u8> {
        let header = FrameHeader { opcode, is_final, mask: masked.then_some([1, 2, 3, 4]), ..FrameHeader::default() };
        let mut bytes = Vec::new();
        Frame::from_payload(header, vec![0xff; payload].into()).format(&mut bytes).expect("memory");
        bytes
    }

    fn after(bytes: &[u8]) -> bool {
        let mut boundaries = Boundaries::default();
        boundaries.advance(bytes);
        boundaries.between_messages()
    }

    #[test]
    fn a_frame_of_any_length_is_over_at_its_last_byte_and_not_before() {
        for payload in [0, 1, 125, 126, 127, 65_535, 65_536] {
            for masked in [false, true] {
                let frame = frame(OpCode::Data(Data::Text), true, masked, payload);
                assert!(after(&frame), "{payload} bytes");
                for cut in (1..frame.len().min(20)).chain([frame.len() - 1]) {
                    assert!(!after(&frame[..cut]), "{cut} of a frame of {payload} bytes");
                }
            }
        }
    }

    #[test]
    fn between_two_fragments_a_message_is_not_over_though_a_ping_is() {
        let begins = frame(OpCode::Data(Data::Text), false, true, 3);
        let ping = frame(OpCode::Control(Control::Ping), true, true, 4);
        let ends = frame(OpCode::Data(Data::Continue), true, true, 0);
        assert!(!after(&begins));
        assert!(!after(&[&begins[..], &ping].concat()));
        assert!(after(&[&begins[..], &ping, &ends].concat()));
        assert!(after(&ping));
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_bytes_come_make_no_difference(
            lengths in proptest::collection::vec((0usize..70_000, any::<bool>()), 1..4), cuts in proptest::collection::vec(1usize..200, 1..50),
        ) {
            let all: Vec<u8> =
                lengths.iter().flat_map(|(length, end)| frame(OpCode::Data(Data::Binary), *end, true, *length)).collect();
            let mut boundaries = Boundaries::default();
            let mut rest = &all[..];
            for cut in cuts.iter().cycle() {
                let (piece, others) = rest.split_at((*cut).min(rest.len()));
                boundaries.advance(piece);
                rest = others;
                prop_assert_eq!(boundaries.between_messages(), after(&all[..all.len() - rest.len()]));
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(boundaries.between_messages(), lengths.last().is_some_and(|last| last.1));
        }
    }
}
