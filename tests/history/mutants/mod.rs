//! Mutants: a good history, damaged in one way. Each must be rejected, by just the promise that it breaks.

mod clients;
mod edit;
mod log;
mod streams;

use crate::files::History;

/// One way to damage a history. None: there is no place for it in this one.
type Damage = fn(&mut History) -> Option<()>;

/// Every mutant: the promise that must reject it, what is done, and how.
pub const MUTANTS: &[(u8, &str, Damage)] = &[
    (1, "a Disconnected is lost", log::lose_disconnected),
    (1, "the Disconnected that a killed process owes is lost", log::lose_node_restarted),
    (1, "a Disconnected is doubled", log::double_disconnected),
    (1, "a Connected is lost", log::lose_connected),
    (2, "an event is dropped from one reader's stream", streams::drop_from_one),
    (2, "an event is doubled in one reader's stream", streams::double_in_one),
    (2, "two events are swapped in one reader's stream", streams::swap_in_one),
    (2, "one reader sees another event at a position", streams::alter_in_one),
    (2, "no reader sees a position", streams::hole),
    (3, "an event is dropped from a filtered stream", streams::drop_from_filtered),
    (3, "a filtered stream has an event that does not pass", streams::stranger_in_filtered),
    (4, "a resumed stream misses its first event", streams::resume_with_gap),
    (4, "a resumed stream repeats the event it was cut at", streams::resume_with_repeat),
    (4, "a good cursor is refused", streams::refuse_good_cursor),
    (4, "a cursor of another epoch is taken without a word", streams::silent_epoch),
    (4, "a consumer is sent again what it acknowledged", streams::consumer_goes_back),
    (5, "a bookmark comes early", streams::early_bookmark),
    (5, "a bookmark goes back", streams::late_bookmark),
    (6, "a snapshot lacks a connection", streams::snapshot_lacks),
    (6, "a list shows a connection that is gone", clients::list_shows_ghost),
    (6, "a client is answered with other labels", clients::wrong_labels),
    (7, "a message that was WRITTEN is never received", clients::written_never_received),
    (7, "a message was ACKED that the client had not acknowledged", clients::acked_unsaid),
    (7, "a stored message is never received", clients::stored_never_received),
    (8, "a message is received after NOT_FOUND", clients::received_after_not_found),
    (8, "a message is received after OUTBOX_FULL", clients::received_after_full),
    (8, "a send is answered INTERNAL", clients::answered_internal),
    (9, "two messages of a client are swapped in the log", log::swap_messages),
    (9, "a message is logged after its connection's end", log::message_after_end),
    (9, "a message of a client that closed in order is lost", log::lose_last_message),
    (9, "a client receives a message twice", clients::receive_twice),
    (9, "a client receives two messages in the wrong order", clients::receive_swapped),
    (10, "a client id has two owners", log::two_owners),
    (10, "a takeover does not say whom it replaced", log::unnamed_takeover),
    (11, "a beating client is expired", log::early_expiry),
    (11, "a silent client is expired late", clients::late_expiry),
    (12, "a socket is left after the drain", clients::left_socket),
    (12, "memory is left after the drain", clients::left_memory),
    (12, "messages are slow while somebody stalls", clients::slow_while_stalled),
    (13, "an acknowledged message is not in the log", clients::acknowledged_not_logged),
];
