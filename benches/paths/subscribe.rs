//! A subscriber that reads what is in the log, through the services as they are served, up to the bytes that go into HTTP/2.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, BytesMut};
use heartwire::drain::Drain;
use heartwire::event::Payload;
use heartwire::grpc::{Deps, DrainDefaults, Limits, Node, Routes, Services};
use heartwire::ids::ClientId;
use heartwire::mailbox::{self, Mailboxes};
use heartwire::pb;
use heartwire::registry::Newcomer;
use heartwire::shutdown::Closing;
use heartwire::store::Store;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::body::Body;

use crate::world::{World, name};

/// The most events of a batch.
pub const BATCH: usize = 512;

/// What is in the log, however much of it is read.
const MESSAGES: usize = BATCH * 20;

fn routes(world: &World) -> Routes {
    let store = Store::in_memory().expect("a store");
    let settings = mailbox::Settings {
        limits: mailbox::Limits { max_messages: 1_000, max_bytes: 1 << 20, max_total_bytes: 64 << 20 },
        trust_self_named: false,
    };
    let (registry, metrics) = (Arc::clone(&world.registry), Arc::clone(&world.metrics));
    let mailboxes =
        Mailboxes::open(store.clone(), Arc::clone(&registry), settings, Arc::clone(&metrics)).expect("mailboxes");
    let services = Services::new(Deps {
        dispatch: world.dispatch.clone(),
        mailboxes,
        store,
        metrics,
        drain: Drain::new(Arc::clone(&registry)),
        registry,
        closing: Closing::default(),
        node: Node { incarnation: "one".into(), start_time: SystemTime::UNIX_EPOCH, max_connections: 1 },
        limits: Limits { max_subscribers: 1, max_snapshots: 1 },
        drain_defaults: DrainDefaults {
            deadline: Duration::from_secs(25),
            close_rate: 0,
            reconnect_jitter: Duration::from_secs(5),
        },
    });
    services.routes().expect("routes")
}

/// The messages of one client in the log.
async fn fill(world: &World) {
    let client_id = ClientId::named(&name(0)).ok();
    let joining = {
        let registry = Arc::clone(&world.registry);
        tokio::spawn(async move { registry.join(Newcomer { client_id, remote_address: None, subprotocol: "" }).await })
    };
    tokio::task::yield_now().await;
    world.commit();
    let registration = joining.await.expect("no panic").expect("joins");
    for number in 0..MESSAGES {
        registration.message(Payload::Text(vec![b'x'; 64].into())).expect("room");
        if number % BATCH == 0 {
            world.commit();
        }
    }
    world.commit();
}

fn request() -> tonic::codegen::http::Request<Body> {
    let start = pb::subscribe_request::Start::Beginning(pb::BeginningStart {});
    let message = pb::SubscribeRequest { start: Some(start), ..Default::default() };
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).expect("short"));
    message.encode(&mut bytes).expect("has room");
    tonic::codegen::http::Request::post("http://node/heartwire.v1.EventService/Subscribe")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(bytes.freeze()).map_err(|never: std::convert::Infallible| match never {})))
        .expect("a request")
}

/// Reads so many of the events.
pub async fn read(times: usize) {
    assert!(times <= MESSAGES && times.is_multiple_of(BATCH));
    let world = World::with(crate::world::CADENCE, 64 << 20);
    fill(&world).await;
    let response = routes(&world).call(request()).await.expect("an answer");
    let mut body = response.into_body();
    while world.metrics.delivered.get() < times as u64 {
        let frame = body.frame().await.expect("more").expect("no error");
        assert!(frame.is_data(), "the end");
    }
}
