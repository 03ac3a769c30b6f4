// What every cell of the matrix does, in a page and in Node alike: connect, subscribe, send,
// receive, disconnect. It imports nothing; `libraries` has the clients.

/** How the three STOMP clients are used. Each gets an open or opening socket. */
const STOMP = {
  "@stomp/stompjs 7": ({ StompJs }, socket, on) => {
    const client = new StompJs.Client({
      webSocketFactory: () => socket,
      connectHeaders: on.login,
      reconnectDelay: 0,
      onConnect: on.connected,
      onStompError: (frame) => on.failed(`ERROR ${frame.headers.message}`),
    });
    client.activate();
    return {
      subscribe: (destination, callback) => client.subscribe(destination, callback),
      send: (destination, body) => client.publish({ destination, body }),
      disconnect: () => client.deactivate(),
    };
  },
  "stompjs 2.3.3": ({ Stomp }, socket, on) => {
    const client = Stomp.over(socket);
    return oldClient(client, on, (destination, body) => client.send(destination, {}, body));
  },
  "webstomp-client": ({ webstomp }, socket, on) => {
    const client = webstomp.over(socket);
    return oldClient(client, on, (destination, body) => client.send(destination, body, {}));
  },
};

function oldClient(client, on, send) {
  client.debug = () => {};
  client.connect(on.login, on.connected, (problem) => {
    if (problem?.command === "ERROR") on.failed(`ERROR ${problem.headers.message}`);
  });
  return {
    subscribe: (destination, callback) => client.subscribe(destination, callback),
    send,
    disconnect: () => new Promise((resolve) => client.disconnect(resolve)),
  };
}

export const stompClients = Object.keys(STOMP);

/** The two old clients take a NUL for the end of a frame, whatever the content-length says. */
const hasNul = (stomp) => stomp === "@stomp/stompjs 7";

const SPECIAL = "é 😀 \u200c \uffff \u2028 \"double\" 'single' \\ 50% %41 <b> </script><script>x</script>\r\n\t.";
/** Cut into several SockJS messages by clients that split at 16 KiB, and past a streaming limit. */
const LONG = "0123456789é".repeat(4000);

const within = (ms, what, promise) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/**
 * One cell. `sockjs` makes a socket; `forced` is the transport, null is the client's own choice.
 * Gives `{ ok, transport, why, code, connectedMs, ms }` and never throws.
 */
export async function story({ libraries, sockjs, stomp, topic, login, ms = 12_000 }) {
  const began = Date.now();
  const result = { ok: false, transport: "", why: "", code: null, connectedMs: null, ms: 0 };
  let client, socket;
  try {
    await within(ms, "end of the story", (async () => {
      socket = sockjs();
      const texts = [hasNul(stomp) ? `${SPECIAL} \0 ${SPECIAL}` : SPECIAL, LONG, "last"];
      await new Promise((resolve, reject) => {
        const received = [];
        let connected = false;
        // The old STOMP clients do not hand the code on.
        socket.addEventListener("close", ({ code, reason }) => {
          result.code = code;
          reject(new Error(`closed ${code} ${reason}${connected ? "" : " before CONNECTED"}`));
        });
        client = STOMP[stomp](libraries, socket, {
          login,
          failed: (why) => reject(new Error(why)),
          connected: () => {
            connected = true;
            result.connectedMs = Date.now() - began;
            // 1.x says it here, 0.3.4 there.
            result.transport = socket.transport ?? socket.protocol ?? "";
            client.subscribe(topic, (message) => {
              received.push(message.body);
              const at = received.length - 1;
              if (received[at] !== texts[at]) {
                reject(new Error(`message ${at} came as ${JSON.stringify(received[at]).slice(0, 80)}`));
              } else if (received.length === texts.length) resolve();
            });
            for (const text of texts) client.send(topic, text);
          },
        });
      });
      await client.disconnect();
    })());
    result.ok = true;
  } catch (error) {
    result.why = error.message;
    try {
      socket?.close();
    } catch {
      // It never opened.
    }
  }
  result.ms = Date.now() - began;
  return result;
}
