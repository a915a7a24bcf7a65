/** The WebSocket subprotocol that is spoken. */
export declare const SUBPROTOCOL: "heartwire.v1.json";

/** What a close code calls for. */
export declare function reconnectAfter(code: number): "no" | "yes" | "backoff";

/** Exponential backoff with full jitter: a random time in milliseconds for this attempt, which counts from 0. */
export declare function backoff(
  attempt: number,
  bounds: { firstMs: number; longestMs: number },
  random?: () => number,
): number;

/** What the client needs of a WebSocket; the one of browsers and that of the package `ws` have it. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  /** Cuts the socket, where it can be: that of `ws`. Where not, one that is given up is closed with the code 4499. */
  terminate?(): void;
}

export interface Options {
  /** Names the client where the URL does not (`?client_id=`). Without a name one is assigned. */
  clientId?: string;
  /** The WebSocket to use. Default: the global one. */
  WebSocket?: new (url: string, protocol: string) => WebSocketLike;
  /** The most messages that may be unacknowledged. Default 1,000. */
  maxQueue?: number;
  /** The most bytes of them. Default 1 MiB. */
  maxQueueBytes?: number;
  /**
   * What to do, when a session could not be resumed, with messages that were sent and not acknowledged: send them again in the new session
   * (at least once), or not (at most once). Default false.
   */
  resendUncertain?: boolean;
  /** The bound of the first random wait before reconnecting; it doubles with every attempt. Default 500 ms. */
  firstMs?: number;
  /** The greatest bound. Default 30,000 ms. */
  longestMs?: number;
  /** A source of randomness from 0 up to 1, for tests. */
  random?: () => number;
  /** Milliseconds that are never set back, for tests. Default: `performance.now`. */
  now?: () => number;
}

export interface About {
  clientId: string;
  connectionId: string;
}

export interface Opened extends About {
  /** Queued messages that are larger than the server takes; they were not sent. */
  refused: (string | ArrayBuffer | ArrayBufferView)[];
}

export interface NewSession extends Opened {
  /** Messages that were sent in the old session and not acknowledged: they may have been received or not. */
  uncertain: (string | ArrayBuffer | ArrayBufferView)[];
}

export interface Message {
  /** A text, or bytes. */
  data: string | Uint8Array;
  /** What the backend called it. */
  id?: string;
  /** Its number in the session. */
  seq: number;
}

/** The socket has closed or was lost, and the client tries again. */
export interface ClosedForNow {
  /** The close code; 1006 if the socket was lost. */
  code: number;
  reason: string;
  final: false;
  /** After how long it tries again. */
  reconnectInMs: number;
  uncertain?: undefined;
  unsent?: undefined;
}

/** The client is closed, by the server or by `close`. */
export interface ClosedForGood {
  /** The close code; that of the server's `bye` if its Close was lost. */
  code: number;
  reason: string;
  final: true;
  reconnectInMs?: undefined;
  /** Messages that were sent and not acknowledged, oldest first: they may have been received or not. */
  uncertain: (string | ArrayBuffer | ArrayBufferView)[];
  /** Messages that were queued and never sent, oldest first. */
  unsent: (string | ArrayBuffer | ArrayBufferView)[];
}

export type Closed = ClosedForNow | ClosedForGood;

export interface Events {
  /** The first session has begun. */
  open: Opened;
  /** A message has come; each once and in order within a session. It is acknowledged when the listeners have returned. */
  message: Message;
  /** The session goes on, on a new socket; nothing was missed. */
  resumed: About;
  /** The session could not be resumed and another has begun; messages to the client may have been missed. */
  newsession: NewSession;
  /** The socket has closed or was lost; `final` tells whether for good. */
  close: Closed;
  /** Every message that was sent is acknowledged. */
  drain: undefined;
}

/** Why a message was not taken. */
export declare class SendError extends Error {
  readonly code: "QUEUE_FULL" | "TOO_BIG" | "CLOSED";
}

/** A connection to Heartwire that outlives its sockets. It connects by itself, and reconnects until it is closed for good. */
export declare class HeartwireClient {
  constructor(url: string, options?: Options);
  /** `connecting`, `open`, `waiting` to reconnect, or `closed` for good. */
  readonly state: "connecting" | "open" | "waiting" | "closed";
  /** How many messages are not acknowledged. */
  readonly pending: number;
  on<K extends keyof Events>(type: K, listener: (detail: Events[K]) => void): this;
  off<K extends keyof Events>(type: K, listener: (detail: Events[K]) => void): this;
  /**
   * Queues a message; it is sent as soon as there is a socket, and kept until the server has it in its log.
   * @throws SendError if the queue is full, the message is larger than the server takes, or the client is closed
   */
  send(data: string | ArrayBuffer | ArrayBufferView): void;
  /** Ends the session and the client; `code` is 1000 or from 3000 to 4999. What is not acknowledged may be lost: `drain` tells when nothing is, and the `close` event what was. */
  close(code?: number, reason?: string): void;
}
