//! SendStream: outcomes by tag, and what happens when nobody reads them.

use std::collections::BTreeMap;

use super::*;
use pb::send_request::Payload;
use pb::{SendOutcome, SendRequest, SendStreamRequest, Stage, TaggedSend};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

type Outcomes = Streaming<pb::SendStreamResponse>;

async fn open(rig: &Rig) -> (mpsc::Sender<SendStreamRequest>, Outcomes) {
    let (requests, taken) = mpsc::channel(1);
    let outcomes = rig.messages().send_stream(ReceiverStream::new(taken)).await.expect("open");
    (requests, outcomes.into_inner())
}

fn hello(id: &str) -> SendRequest {
    SendRequest { target: client(id), payload: Some(Payload::Text("hello".into())), ..Default::default() }
}

fn tagged(tag: i64, request: SendRequest) -> TaggedSend {
    TaggedSend { tag, request: Some(request) }
}

async fn push(requests: &mpsc::Sender<SendStreamRequest>, sends: Vec<TaggedSend>) {
    requests.send(SendStreamRequest { sends }).await.expect("the stream is open");
}

/// So many outcomes, by tag.
async fn collect(outcomes: &mut Outcomes, count: usize) -> BTreeMap<i64, SendOutcome> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), outcomes.message()).await.expect("in time");
        for outcome in next.expect("no error").expect("more to come").outcomes {
            assert!(all.insert(outcome.tag, outcome).is_none(), "a second outcome");
        }
    }
    all
}

#[tokio::test]
async fn each_send_gets_its_own_outcome_and_a_failure_ends_only_itself() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let (requests, mut outcomes) = open(&rig).await;
    push(
        &requests,
        vec![
            tagged(1, hello("alice")),
            tagged(2, hello("nobody")),
            tagged(3, SendRequest { payload: None, ..hello("alice") }),
            TaggedSend { tag: 4, request: None },
            tagged(5, SendRequest { if_generation: 1, ..hello("alice") }),
            tagged(-6, hello("alice")),
        ],
    )
    .await;
    push(&requests, vec![]).await;
    let all = collect(&mut outcomes, 6).await;
    let told: Vec<_> = all.values().map(|o| (o.tag, o.code, o.reason.as_str(), o.response.is_some())).collect();
    assert_eq!(
        told,
        [
            (-6, 0, "", true),
            (1, 0, "", true),
            (2, Code::NotFound as i32, "CLIENT_NOT_CONNECTED", false),
            (3, Code::InvalidArgument as i32, "FIELD_INVALID", false),
            (4, Code::InvalidArgument as i32, "FIELD_INVALID", false),
            (5, Code::FailedPrecondition as i32, "GENERATION_MISMATCH", false),
        ]
    );
    assert!(all[&2].message.contains("not connected") && all[&1].message.is_empty());
    assert_eq!(write_out(&alice), ["hello", "hello"]);
    drop(requests);
    assert!(outcomes.message().await.expect("ends OK").is_none());
}

#[tokio::test]
async fn a_full_outbox_refuses_and_never_waits() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let (requests, mut outcomes) = open(&rig).await;
    push(&requests, (0..2_000).map(|tag| tagged(tag, hello("alice"))).collect()).await;
    let all = collect(&mut outcomes, 2_000).await;
    let refused = all.values().filter(|outcome| outcome.reason == "OUTBOX_FULL").count();
    assert_eq!((refused, write_out(&alice).len()), (1_984, 16));
    assert!(all.values().take(16).all(|outcome| outcome.code == 0), "in the order of the stream");
}

#[tokio::test]
async fn receipts_are_awaited_side_by_side_and_owed_after_the_half_close() {
    let rig = Rig::start().await;
    let (alice, bob) = (rig.join("alice").await, rig.join("bob").await);
    let (requests, mut outcomes) = open(&rig).await;
    let written = |id| SendRequest { receipt: Stage::Written.into(), ..hello(id) };
    push(&requests, vec![tagged(1, written("alice")), tagged(2, written("bob")), tagged(3, hello("bob"))]).await;
    drop(requests);
    // Alice's driver does nothing, and nobody waits for it.
    let first = collect(&mut outcomes, 1).await;
    assert!(first.contains_key(&3));
    write_out(&bob);
    let second = collect(&mut outcomes, 1).await;
    let response = second[&2].response.as_ref().expect("OK");
    assert_eq!(response.deliveries[0].stage, i32::from(Stage::Written));
    write_out(&alice);
    assert!(collect(&mut outcomes, 1).await.contains_key(&1));
    assert!(outcomes.message().await.expect("ends OK").is_none());
}

#[tokio::test]
async fn one_receipt_too_many_is_refused_and_not_sent() {
    let outbox = OutboxLimits { frames: 10_000, bytes: 1 << 20 };
    let rig = Rig::with(Options { outbox, ..Options::default() }).await;
    let alice = rig.join("alice").await;
    let (requests, mut outcomes) = open(&rig).await;
    let written = || SendRequest { receipt: Stage::Written.into(), ..hello("alice") };
    push(&requests, (0..4_098).map(|tag| tagged(tag, written())).collect()).await;
    let refused = collect(&mut outcomes, 2).await;
    assert!(refused.values().all(|o| o.reason == "RECEIPTS_LIMIT" && o.code == Code::ResourceExhausted as i32));
    assert_eq!(write_out(&alice).len(), 4_096);
    assert_eq!(collect(&mut outcomes, 4_096).await.len(), 4_096);
}

#[tokio::test(start_paused = true)]
async fn outcomes_that_nobody_reads_end_the_stream_after_ten_seconds() {
    let rig = Rig::paused(Options::default());
    let _alice = rig.join("alice").await;
    let (requests, mut outcomes) = open(&rig).await;
    // Far more outcomes than all buffers on the way hold.
    let sent = tokio::spawn(async move {
        let mut tag = 0;
        loop {
            let sends = (tag..tag + 500).map(|tag| tagged(tag, hello("alice"))).collect();
            tag += 500;
            if requests.send(SendStreamRequest { sends }).await.is_err() {
                return tag;
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(!sent.is_finished(), "too early");
    tokio::time::sleep(Duration::from_secs(6)).await;
    // The outcomes that were on the way come first.
    let mut read = 0;
    let error = loop {
        match outcomes.message().await {
            Ok(response) => read += response.expect("not OK").outcomes.len(),
            Err(error) => break error,
        }
    };
    assert_error(&error, Code::Aborted, "RESPONSES_UNREAD");
    let sent = tokio::time::timeout(Duration::from_secs(1), sent).await.expect("told").expect("no panic");
    assert!(read > 0 && (read as i64) < sent, "{read} of {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_idle_for_long_or_read_slowly_goes_on() {
    let rig = Rig::paused(Options::default());
    let _alice = rig.join("alice").await;
    let (requests, mut outcomes) = open(&rig).await;
    for tag in 0..5 {
        push(&requests, vec![tagged(tag, hello("alice"))]).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(collect(&mut outcomes, 1).await.contains_key(&tag));
    }
}

#[tokio::test]
async fn one_unread_stream_starves_no_other_call_on_the_channel() {
    let rig = Rig::start().await;
    let _alice = rig.join("alice").await;
    let (requests, _unread) = open(&rig).await;
    let flooding = tokio::spawn(async move {
        loop {
            let sends = (0..500).map(|tag| tagged(tag, hello("alice"))).collect();
            if requests.send(SendStreamRequest { sends }).await.is_err() {
                return;
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..100 {
        let node = tokio::time::timeout(Duration::from_secs(5), rig.nodes().get_node(pb::GetNodeRequest {})).await;
        node.expect("not starved").expect("answered");
    }
    flooding.abort();
}

#[tokio::test]
async fn a_cancelled_stream_is_gone_and_a_stopping_node_ends_an_open_one() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let (requests, outcomes) = open(&rig).await;
    push(&requests, vec![tagged(1, SendRequest { receipt: Stage::Written.into(), ..hello("alice") })]).await;
    eventually("a frame waits", || alice.connection().outbox.depth().0 == 1).await;
    let frame = alice.connection().outbox.pop(Instant::now()).0.expect("a frame");
    let receipt = frame.receipt.expect("a receipt is awaited");
    assert!(!receipt.is_closed());
    drop((requests, outcomes));
    eventually("nobody waits for the receipt", || receipt.is_closed()).await;
    let (_requests, mut outcomes) = open(&rig).await;
    rig.closing.end_after(rig.head());
    assert_error(&outcomes.message().await.expect_err("ended"), Code::Unavailable, "SHUTTING_DOWN");
    let (requests, taken) = mpsc::channel(1);
    let refused = rig.messages().send_stream(ReceiverStream::new(taken)).await;
    assert_error(&refused.expect_err("refused"), Code::Unavailable, "SHUTTING_DOWN");
    drop(requests);
}
