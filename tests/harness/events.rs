//! A subscriber that hands out one event at a time.

use std::collections::VecDeque;

use heartwire::pb;
use heartwire::pb::event::Kind;
use tonic::Streaming;

use super::SOON;

/// A `Subscribe` stream.
pub struct Events {
    stream: Streaming<pb::SubscribeResponse>,
    waiting: VecDeque<(pb::Event, bool)>,
    /// The newest cursor of the stream.
    pub cursor: String,
}

impl Events {
    pub fn new(stream: Streaming<pb::SubscribeResponse>) -> Self {
        Self { stream, waiting: VecDeque::new(), cursor: String::new() }
    }

    /// The next response as it is.
    pub async fn response(&mut self) -> Result<Option<pb::SubscribeResponse>, tonic::Status> {
        let response = tokio::time::timeout(SOON, self.stream.message()).await.expect("a response soon")?;
        if let Some(response) = &response
            && !response.cursor.is_empty()
        {
            self.cursor.clone_from(&response.cursor);
        }
        Ok(response)
    }

    /// The next event, and whether it is of a snapshot.
    pub async fn next_with_mark(&mut self) -> (pb::Event, bool) {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            let response = self.response().await.expect("goes on").expect("goes on");
            let snapshot = response.snapshot;
            self.waiting.extend(response.events.into_iter().map(|event| (event, snapshot)));
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> pb::Event {
        self.next_with_mark().await.0
    }

    /// The next event that is a `Connected`, of whomever.
    pub async fn connected(&mut self) -> (pb::Event, pb::Connected) {
        let event = self.next().await;
        match event.kind.clone() {
            Some(Kind::Connected(connected)) => (event, connected),
            other => panic!("not Connected: {}", brief(&other)),
        }
    }

    /// The next event, which must be a `Disconnected`.
    pub async fn disconnected(&mut self) -> (pb::Event, pb::Disconnected) {
        let event = self.next().await;
        match event.kind.clone() {
            Some(Kind::Disconnected(end)) => (event, end),
            other => panic!("not Disconnected: {}", brief(&other)),
        }
    }

    /// Skips to the next `Disconnected`.
    pub async fn next_disconnected(&mut self) -> (pb::Event, pb::Disconnected) {
        loop {
            let event = self.next().await;
            if let Some(Kind::Disconnected(end)) = event.kind.clone() {
                return (event, end);
            }
        }
    }

    /// The next event, which must be a text message.
    pub async fn text(&mut self) -> (pb::Event, String) {
        let event = self.next().await;
        match event.kind.clone() {
            Some(Kind::MessageReceived(pb::MessageReceived {
                payload: Some(pb::message_received::Payload::Text(text)),
            })) => (event, text),
            other => panic!("not a text message: {}", brief(&other)),
        }
    }

    /// Reads on until the stream ends: the events and how it ended.
    pub async fn until_its_end(&mut self) -> (Vec<pb::Event>, Result<(), tonic::Status>) {
        let mut events: Vec<_> = self.waiting.drain(..).map(|(event, _)| event).collect();
        loop {
            match self.response().await {
                Ok(Some(response)) => events.extend(response.events),
                Ok(None) => return (events, Ok(())),
                Err(status) => return (events, Err(status)),
            }
        }
    }
}

/// Enough of something to know it by.
fn brief(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(300).collect()
}
