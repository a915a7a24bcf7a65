//! Sessions that outlive their sockets: what is sent again, what is told, and how a session ends without a socket.

mod attempts;
mod ended;
mod missed;
mod played;
mod without_socket;

use super::*;

const GONE: &str = "a gone: connection_lost 1006 Connection lost";

async fn is_unknown(world: &World, old: &Speaker) {
    let mut again = world.mute(None).await;
    again.say(old.resume()).await;
    assert_eq!(again.is_told("SESSION_UNKNOWN").await, 4404);
}

/// The client's socket ends with no Close; what it knows is kept.
async fn loses_its_socket(speaker: &mut Speaker) {
    let (none, _) = duplex(1);
    speaker.client = Client::new(none).await;
    settle().await;
}
