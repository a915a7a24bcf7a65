//! Which events a subscriber wants.

use std::collections::HashSet;

use super::arguments;
use super::error::Error;
use crate::event::{ConnectionInfo, Event, EventKind, KindTag};
use crate::ids::ClientId;
use crate::labels::Labels;
use crate::pb;

/// The most client ids of one filter: it is kept for as long as its stream is open.
const MAX_CLIENT_IDS: usize = 10_000;

/// An event filter; all that is given must hold.
#[derive(Debug)]
pub(super) struct Filter {
    /// A bit for each kind that passes.
    kinds: u16,
    /// None: any.
    clients: Option<HashSet<ClientId>>,
    prefix: Box<str>,
    labels: Labels,
}

const fn bit(kind: KindTag) -> u16 {
    1 << kind as u16
}

impl Filter {
    pub(super) fn parse(filter: Option<pb::EventFilter>) -> Result<Self, Error> {
        let filter = filter.unwrap_or_default();
        let mut kinds = if filter.kinds.is_empty() { u16::MAX } else { 0 };
        for (at, kind) in filter.kinds.iter().enumerate() {
            kinds |= kind_bit(*kind)
                .ok_or_else(|| Error::field(format!("filter.kinds[{at}]"), "is not a kind of an event"))?;
        }
        if filter.client_ids.len() > MAX_CLIENT_IDS {
            let problem = format!("has {} ids, at most {MAX_CLIENT_IDS} are allowed", filter.client_ids.len());
            return Err(Error::field("filter.client_ids", problem));
        }
        let mut clients = HashSet::with_capacity(filter.client_ids.len());
        for (at, id) in filter.client_ids.iter().enumerate() {
            let id = ClientId::named(id)
                .map_err(|error| Error::field(format!("filter.client_ids[{at}]"), error.to_string()))?;
            clients.insert(id);
        }
        Ok(Self {
            kinds,
            clients: (!clients.is_empty()).then_some(clients),
            prefix: arguments::prefix("filter.client_id_prefix", filter.client_id_prefix)?,
            labels: arguments::selector("filter.labels", &filter.labels)?,
        })
    }

    /// Whether an event passes.
    pub(super) fn passes(&self, event: &Event) -> bool {
        self.passes_kind(event.kind.tag())
            && self.passes_client(&event.connection)
            && (event.labels.match_all(&self.labels) || self.leaves(&event.kind))
    }

    /// Whether the event takes a connection out of the selector; that must be seen.
    fn leaves(&self, kind: &EventKind) -> bool {
        matches!(kind, EventKind::LabelsChanged { previous } if previous.match_all(&self.labels))
    }

    /// Whether a connection of a snapshot passes.
    pub(super) fn passes_connection(&self, info: &ConnectionInfo, labels: &Labels) -> bool {
        self.passes_kind(KindTag::Connected) && self.passes_client(info) && labels.match_all(&self.labels)
    }

    /// Whether events of this kind may pass.
    pub(super) const fn passes_kind(&self, kind: KindTag) -> bool {
        self.kinds & bit(kind) != 0
    }

    fn passes_client(&self, info: &ConnectionInfo) -> bool {
        // Bytes, not characters: a prefix is always whole characters, and ids are compared as bytes.
        info.client_id.as_str().as_bytes().starts_with(self.prefix.as_bytes())
            && self.clients.as_ref().is_none_or(|clients| clients.contains(&info.client_id))
    }
}

fn kind_bit(kind: i32) -> Option<u16> {
    use pb::EventKind as Named;
    Some(match Named::try_from(kind).ok()? {
        Named::Unspecified => return None,
        Named::Connected => bit(KindTag::Connected),
        Named::Suspected => bit(KindTag::Suspected),
        Named::Recovered => bit(KindTag::Recovered),
        Named::Disconnected => bit(KindTag::Disconnected),
        Named::MessageReceived => bit(KindTag::MessageReceived),
        Named::LabelsChanged => bit(KindTag::LabelsChanged),
        Named::HeartbeatChanged => bit(KindTag::HeartbeatChanged),
        Named::MessageExpired => bit(KindTag::MessageExpired),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(kinds: &[pb::EventKind]) -> Filter {
        let kinds = kinds.iter().map(|kind| *kind as i32).collect();
        Filter::parse(Some(pb::EventFilter { kinds, ..Default::default() })).expect("a good filter")
    }

    #[test]
    fn no_kinds_are_all_kinds_and_those_that_are_named_are_only_those() {
        assert!(KindTag::ALL.iter().all(|kind| kinds(&[]).passes_kind(*kind)));
        let two = kinds(&[pb::EventKind::Connected, pb::EventKind::Disconnected]);
        let passed: Vec<_> = KindTag::ALL.into_iter().filter(|kind| two.passes_kind(*kind)).collect();
        assert_eq!(passed, [KindTag::Connected, KindTag::Disconnected]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_in_the_list() {
        let filter = pb::EventFilter { kinds: vec![1, 99], ..Default::default() };
        let error = Filter::parse(Some(filter)).expect_err("no such kind");
        assert!(matches!(error, Error::Field { field, .. } if field == "filter.kinds[1]"));
        let filter = pb::EventFilter { client_ids: vec!["a".into(), String::new()], ..Default::default() };
        let error = Filter::parse(Some(filter)).expect_err("an empty id");
        assert!(matches!(error, Error::Field { field, .. } if field == "filter.client_ids[1]"));
        let filter = pb::EventFilter { client_ids: vec!["a".into(); MAX_CLIENT_IDS + 1], ..Default::default() };
        let error = Filter::parse(Some(filter)).expect_err("refused");
        assert!(matches!(error, Error::Field { field, .. } if field == "filter.client_ids"));
    }
}
