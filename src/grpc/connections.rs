//! ConnectionService: looking at the connections and acting on them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Request;

use super::Shared;
use super::arguments::{self, ConnectionFilter};
use super::batch::Batch;
use super::call;
use super::convert;
use super::error::{Error, Reply, reply};
use super::page::{self, PageToken};
use crate::pb;
use crate::pb::connection_service_server::ConnectionService;
use crate::registry::{Commanded, PageStart, Target};

/// Members looked at before others have their turn.
const LOOK_AT: usize = 4096;

/// What a client is told when the backend that disconnects it says nothing.
const DEFAULT_REASON: &str = "Disconnected by the backend";
const REASON_BYTES: usize = 123;

const PROBE_DEFAULT: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: RangeInclusive<Duration> = Duration::from_nanos(1)..=Duration::from_secs(30);
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

pub(super) struct Connections(pub(super) Arc<Shared>);

impl Connections {
    async fn list(
        &self,
        request: pb::ListConnectionsRequest,
        deadline: Option<Instant>,
    ) -> Result<pb::ListConnectionsResponse, Error> {
        let shared = &*self.0;
        let filter = ConnectionFilter::parse(request.filter)?;
        let size = arguments::page_size(request.page_size)?;
        let fingerprint = page::fingerprint(&filter);
        shared.reach_cursor(&request.min_cursor, deadline).await?;
        let (position, mut start) = if request.page_token.is_empty() {
            // Taken before anyone is visited: what happens from here on is in the events after it.
            (shared.registry.position(shared.head()), Some(PageStart::default()))
        } else {
            let token = PageToken::from_text(&request.page_token).ok_or(Error::PageToken)?;
            if token.filter != fingerprint || token.position.epoch != shared.registry.log().epoch() {
                return Err(Error::PageToken);
            }
            (token.position, Some(token.start))
        };
        let mut page = Batch::new(size);
        let mut full = false;
        while let Some(from) = start.filter(|_| !full) {
            let mut looked_at = 0;
            start = shared.registry.visit(from, |view| {
                looked_at += 1;
                if looked_at > LOOK_AT {
                    return false;
                }
                full = filter.passes(&view) && page.offer(convert::connection(&view)).is_err();
                !full
            });
            if start.is_some() && !full {
                tokio::task::yield_now().await;
            }
        }
        let next = start.map(|start| PageToken { start, position, filter: fingerprint }.to_text());
        Ok(pb::ListConnectionsResponse {
            connections: page.into_items(),
            next_page_token: next.unwrap_or_default(),
            cursor: position.to_cursor(),
        })
    }

    async fn count(&self, request: pb::CountConnectionsRequest) -> Result<pb::CountConnectionsResponse, Error> {
        let registry = &self.0.registry;
        let filter = ConnectionFilter::parse(request.filter)?;
        let cursor = self.0.cursor(self.0.head());
        if filter.is_empty() {
            return Ok(pb::CountConnectionsResponse { count: convert::count(registry.count()), cursor });
        }
        let (mut count, mut start) = (0, Some(PageStart::default()));
        while let Some(from) = start {
            let mut looked_at = 0;
            start = registry.visit(from, |view| {
                looked_at += 1;
                let go_on = looked_at <= LOOK_AT;
                count += i64::from(go_on && filter.passes(&view));
                go_on
            });
            tokio::task::yield_now().await;
        }
        Ok(pb::CountConnectionsResponse { count, cursor })
    }

    async fn find(&self, target: &Target, min_cursor: &str, deadline: Option<Instant>) -> Result<Found, Error> {
        self.0.reach_cursor(min_cursor, deadline).await?;
        let (views, offset) = self.0.registry.get(target);
        Ok((views.iter().map(convert::connection).collect(), self.0.cursor(offset)))
    }

    async fn disconnect(&self, request: pb::DisconnectRequest) -> Result<pb::DisconnectResponse, Error> {
        let target = arguments::target(request.target)?;
        let code = close_code(request.code)?;
        if request.reason.len() > REASON_BYTES {
            let problem = format!("has {} bytes, at most {REASON_BYTES} are allowed", request.reason.len());
            return Err(Error::field("reason", problem));
        }
        let reason = if request.reason.is_empty() { DEFAULT_REASON } else { &request.reason };
        let if_generation = arguments::if_generation(request.if_generation)?;
        let (ids, offset) = self.0.registry.disconnect(&target, code, reason, if_generation).await?;
        let connection_ids = ids.iter().map(ToString::to_string).collect();
        Ok(pb::DisconnectResponse { connection_ids, cursor: self.0.cursor(offset) })
    }

    async fn update_labels(&self, request: pb::UpdateLabelsRequest) -> Result<Found, Error> {
        let target = arguments::target(request.target)?;
        // What is wrong with the new labels by themselves is wrong whatever there is already.
        arguments::selector("set", &request.set)?;
        if let Some(at) = request.remove.iter().position(|key| request.set.contains_key(key)) {
            return Err(Error::field(format!("remove[{at}]"), "is in `set` too"));
        }
        let if_generation = arguments::if_generation(request.if_generation)?;
        let set = request.set.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let remove = request.remove.iter().map(String::as_str);
        let done = self.0.registry.update_labels(&target, set, remove, if_generation).await?;
        Ok(self.commanded(&done))
    }

    async fn update_heartbeat(&self, request: pb::UpdateHeartbeatRequest) -> Result<Found, Error> {
        let target = arguments::target(request.target)?;
        let heartbeat = request.heartbeat.ok_or_else(|| Error::field("heartbeat", "must be set"))?;
        let interval = arguments::span("heartbeat.interval", heartbeat.interval, INTERVAL)?;
        let timeout = arguments::span("heartbeat.timeout", heartbeat.timeout, TIMEOUT)?;
        let if_generation = arguments::if_generation(request.if_generation)?;
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let (interval, timeout) = (interval.map(millis), timeout.map(millis));
        let done = self.0.registry.update_heartbeat(&target, interval, timeout, if_generation).await?;
        Ok(self.commanded(&done))
    }

    fn commanded(&self, done: &Commanded) -> Found {
        (done.connections.iter().map(convert::connection).collect(), self.0.cursor(done.offset))
    }

    async fn probe(&self, request: pb::ProbeRequest) -> Result<pb::ProbeResponse, Error> {
        let target = arguments::target(request.target)?;
        let timeout = arguments::span("timeout", request.timeout, PROBE_TIMEOUT)?.unwrap_or(PROBE_DEFAULT);
        let until = Instant::now() + timeout;
        let probes = self.0.registry.probe(&target);
        if probes.is_empty() {
            return Err(Error::NotConnected);
        }
        let mut results = Vec::with_capacity(probes.len());
        for (connection_id, answer) in probes {
            // Nothing comes of one whose connection ended.
            let round_trip = tokio::time::timeout_at(until, answer).await.ok().and_then(Result::ok);
            results.push(pb::ProbeResult {
                connection_id: connection_id.to_string(),
                answered: round_trip.is_some(),
                round_trip_time: round_trip.map(convert::duration),
            });
        }
        Ok(pb::ProbeResponse { results })
    }
}

/// Connections and the cursor they are as of.
type Found = (Vec<pb::Connection>, String);

fn close_code(code: i32) -> Result<u16, Error> {
    match code {
        0 => Ok(1000),
        1000 | 1001 | 1008 | 1009 | 1011 | 1012 | 1013 | 3000..=4999 => Ok(code as u16),
        _ => Err(Error::field("code", "must be 1000, 1001, 1008, 1009, 1011, 1012, 1013 or from 3000 to 4999")),
    }
}

#[tonic::async_trait]
impl ConnectionService for Connections {
    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Reply<pb::ListConnectionsResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.list(request.into_inner(), deadline)).await)
    }

    async fn get_connection(&self, request: Request<pb::GetConnectionRequest>) -> Reply<pb::GetConnectionResponse> {
        let deadline = call::deadline(request.metadata());
        let request = request.into_inner();
        let get = async {
            let id = arguments::connection_id("connection_id", &request.connection_id)?;
            let (found, cursor) = self.find(&Target::Connection(id), &request.min_cursor, deadline).await?;
            let connection = found.into_iter().next().ok_or(Error::NoSuchConnection)?;
            Ok(pb::GetConnectionResponse { connection: Some(connection), cursor })
        };
        reply(self.0.bounded(deadline, get).await)
    }

    async fn get_client(&self, request: Request<pb::GetClientRequest>) -> Reply<pb::GetClientResponse> {
        let deadline = call::deadline(request.metadata());
        let request = request.into_inner();
        let get = async {
            let id = arguments::client_id("client_id", &request.client_id)?;
            let (connections, cursor) = self.find(&Target::Client(id), &request.min_cursor, deadline).await?;
            Ok(pb::GetClientResponse { connections, cursor })
        };
        reply(self.0.bounded(deadline, get).await)
    }

    async fn count_connections(
        &self,
        request: Request<pb::CountConnectionsRequest>,
    ) -> Reply<pb::CountConnectionsResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.count(request.into_inner())).await)
    }

    async fn disconnect(&self, request: Request<pb::DisconnectRequest>) -> Reply<pb::DisconnectResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.disconnect(request.into_inner())).await)
    }

    async fn update_labels(&self, request: Request<pb::UpdateLabelsRequest>) -> Reply<pb::UpdateLabelsResponse> {
        let deadline = call::deadline(request.metadata());
        let done = self.0.bounded(deadline, self.update_labels(request.into_inner())).await;
        reply(done.map(|(connections, cursor)| pb::UpdateLabelsResponse { connections, cursor }))
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Reply<pb::ProbeResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.probe(request.into_inner())).await)
    }

    async fn update_heartbeat(
        &self,
        request: Request<pb::UpdateHeartbeatRequest>,
    ) -> Reply<pb::UpdateHeartbeatResponse> {
        let deadline = call::deadline(request.metadata());
        let done = self.0.bounded(deadline, self.update_heartbeat(request.into_inner())).await;
        reply(done.map(|(connections, cursor)| pb::UpdateHeartbeatResponse { connections, cursor }))
    }
}
