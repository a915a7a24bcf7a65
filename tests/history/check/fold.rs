//! The state that a log implies, and the same state as put together by a backend.

use std::collections::BTreeMap;

use crate::record::{Event, Kind, Shown};

/// Who is connected.
#[derive(Clone, Default)]
pub struct Fold {
    /// By connection id.
    pub connections: BTreeMap<String, Shown>,
}

impl Fold {
    /// From what a list showed.
    pub fn of(shown: &[Shown]) -> Self {
        Self { connections: shown.iter().map(|one| (one.connection.clone(), one.clone())).collect() }
    }

    /// Applies an event, by generation: one of a connection that is older than what is known of the client changes nothing.
    pub fn apply(&mut self, event: &Event) {
        let id = &event.connection;
        match &event.kind {
            Kind::Connected { state, interval, timeout, .. } => {
                let shown = Shown {
                    client: event.client.clone(),
                    connection: id.clone(),
                    generation: event.generation,
                    state: state.clone(),
                    labels: event.labels.clone(),
                    interval: *interval,
                    timeout: *timeout,
                };
                self.connections.insert(id.clone(), shown);
            }
            Kind::Disconnected { .. } => {
                self.connections.remove(id);
            }
            Kind::Suspected { .. } => self.change(id, |shown| shown.state = "suspect".to_owned()),
            Kind::Recovered { .. } => self.change(id, |shown| shown.state = "alive".to_owned()),
            Kind::LabelsChanged { .. } => self.change(id, |shown| shown.labels.clone_from(&event.labels)),
            Kind::HeartbeatChanged { interval, timeout } => {
                self.change(id, |shown| (shown.interval, shown.timeout) = (*interval, *timeout));
            }
            Kind::MessageReceived { .. } | Kind::MessageExpired { .. } | Kind::Unknown => {}
        }
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Shown)) {
        if let Some(shown) = self.connections.get_mut(id) {
            change(shown);
        }
    }

    /// How this differs from another, in words; None if it does not.
    pub fn difference(&self, other: &Self, leave_out: impl Fn(&str) -> bool) -> Option<String> {
        let mut differences = Vec::new();
        for (id, one) in &self.connections {
            match other.connections.get(id) {
                _ if leave_out(id) => {}
                None => differences.push(format!("{} {id} is only in the first", one.client)),
                Some(two) if one != two => differences.push(format!("{one:?} against {two:?}")),
                Some(_) => {}
            }
        }
        for (id, two) in &other.connections {
            if !self.connections.contains_key(id) && !leave_out(id) {
                differences.push(format!("{} {id} is only in the second", two.client));
            }
        }
        let more = differences.len().saturating_sub(3);
        differences.truncate(3);
        match (differences.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(differences.join("; ")),
            (false, more) => Some(format!("{}; and {more} more", differences.join("; "))),
        }
    }
}
