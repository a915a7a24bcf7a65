//! Small frames must not wait for each other: sockets without Nagle's algorithm, with no call for each where they have that from their listener.

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

/// Sees to it that what is written to sockets goes out at once. One that refuses works all the same.
pub(super) struct Prompt {
    /// Whether sockets have it from their listener, as on Linux; not known before the first.
    inherited: Option<bool>,
}

impl Prompt {
    pub(super) fn of(listener: &TcpListener) -> Self {
        let asked = SockRef::from(listener).set_tcp_nodelay(true);
        Self { inherited: asked.is_err().then_some(false) }
    }

    /// A socket was accepted. The first is asked whether it has it already; the others are like it.
    pub(super) fn see_to(&mut self, stream: &TcpStream) {
        let inherited = *self.inherited.get_or_insert_with(|| stream.nodelay().unwrap_or(false));
        if !inherited {
            let _ = stream.set_nodelay(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn accepted(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connected"), server.expect("accepted").0)
    }

    #[tokio::test]
    async fn every_socket_is_prompt_and_on_linux_none_has_to_be_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut prompt = Prompt::of(&listener);
        for _ in 0..3 {
            let (_client, server) = accepted(&listener).await;
            if cfg!(target_os = "linux") {
                assert!(server.nodelay().expect("an option"), "before it is seen to");
            }
            prompt.see_to(&server);
            assert!(server.nodelay().expect("an option"));
        }
        assert!(prompt.inherited == Some(true) || !cfg!(target_os = "linux"));
    }

    #[tokio::test]
    async fn where_it_is_not_inherited_each_socket_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut prompt = Prompt { inherited: None };
        for _ in 0..3 {
            let (_client, server) = accepted(&listener).await;
            prompt.see_to(&server);
            assert!(server.nodelay().expect("an option"));
        }
        assert_eq!(prompt.inherited, Some(false));
    }
}
