// A Ping and the text `heartbeat` to every socket once in an interval, a few at a time, with one timer for all.
'use strict';

const TICK_MS = 100;

class Beats {
  constructor(interval) {
    const count = Math.max(1, Math.round(interval / TICK_MS));
    this.slots = Array.from({ length: count }, () => []);
    this.tick = interval / count;
    // Ticks that were run, and how many came before whoever joins next.
    this.ticks = 0;
    this.joined = 0;
    this.begin = performance.now();
    setInterval(() => this.run(), this.tick);
  }

  // Whoever comes is beaten in the next slot after that of the one before, so they spread evenly.
  join(socket) {
    const slot = this.slots[this.joined++ % this.slots.length];
    socket.slot = slot;
    socket.place = slot.push(socket) - 1;
  }

  leave(socket) {
    const last = socket.slot.pop();
    if (last === socket) return;
    socket.slot[socket.place] = last;
    last.place = socket.place;
  }

  run() {
    // By the clock, since Node's timers are each a little late; but never a slot twice at once.
    const due = Math.floor((performance.now() - this.begin) / this.tick);
    this.ticks = Math.max(this.ticks, due - this.slots.length);
    for (; this.ticks < due; this.ticks++) {
      for (const socket of this.slots[this.ticks % this.slots.length]) beat(socket);
    }
  }
}

// Corked, both are one write to the socket.
function beat(socket) {
  socket.cork(() => {
    socket.ping();
    socket.send('heartbeat', false);
  });
}

module.exports = { Beats };
