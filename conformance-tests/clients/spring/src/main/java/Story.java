import java.lang.reflect.Type;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

import org.springframework.messaging.simp.stomp.ReactorNettyTcpStompClient;
import org.springframework.messaging.simp.stomp.StompClientSupport;
import org.springframework.messaging.simp.stomp.StompCommand;
import org.springframework.messaging.simp.stomp.StompFrameHandler;
import org.springframework.messaging.simp.stomp.StompHeaders;
import org.springframework.messaging.simp.stomp.StompSession;
import org.springframework.messaging.simp.stomp.StompSession.Receiptable;
import org.springframework.messaging.simp.stomp.StompSession.Subscription;
import org.springframework.messaging.simp.stomp.StompSessionHandlerAdapter;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.web.socket.WebSocketHttpHeaders;
import org.springframework.web.socket.client.standard.StandardWebSocketClient;
import org.springframework.web.socket.messaging.WebSocketStompClient;

/**
 * Spring's STOMP clients: {@code Story websocket|split|tcp}. The story is that of ../story.mjs,
 * without transactions, for which Spring has no calls.
 */
public final class Story {

    private static final int LARGE = 40_000;
    private static final int SPLIT = 16 * 1024;
    private static final int PATIENCE = 25;
    /** Beats are due every 10 s; Spring looks every 5 s whether one is, and says nothing of it. */
    private static final int BEATS = 16_000;

    private static final String STORY = System.getenv("STORY");
    private static final String TOPIC = "/topic/rec." + STORY;
    private static final String QUEUE = "/queue/rec-" + STORY;

    private final StompSession session;

    private Story(StompSession session) {
        this.session = session;
    }

    /** A message: headers, and the body as bytes. */
    private record Came(StompHeaders headers, byte[] body) {
        String text() {
            return new String(body, StandardCharsets.UTF_8);
        }
    }

    public static void main(String[] args) throws Exception {
        boolean isTcp = args[0].equals("tcp");
        String spring = StompSession.class.getPackage().getImplementationVersion();
        System.out.println("@client Spring " + (isTcp ? "ReactorNettyTcpStompClient" : "WebSocketStompClient"));
        System.out.println("@version " + spring);
        System.out.println("@registry Maven Central");
        System.out.println("@runtime Java " + Runtime.version().feature()
                + (isTcp ? ", reactor-netty-core 1.3.6" : ", tyrus-standalone-client 2.2.0"));

        ThreadPoolTaskScheduler scheduler = new ThreadPoolTaskScheduler();
        scheduler.initialize();
        StompHeaders connect = new StompHeaders();
        connect.setLogin("guest");
        connect.setPasscode("guest");
        StompSession session = open(args[0], scheduler, connect).get(PATIENCE, TimeUnit.SECONDS);
        new Story(session).play();
        // Threads of the client stay.
        System.exit(0);
    }

    private static CompletableFuture<StompSession> open(
            String kind, ThreadPoolTaskScheduler scheduler, StompHeaders connect) {
        if (kind.equals("tcp")) {
            int port = Integer.parseInt(System.getenv("RELAY_PORT"));
            ReactorNettyTcpStompClient client =
                    new ReactorNettyTcpStompClient(System.getenv("RELAY_HOST"), port);
            prepare(client, scheduler);
            return client.connectAsync(connect, new Loud());
        }
        WebSocketStompClient client = new WebSocketStompClient(new StandardWebSocketClient());
        prepare(client, scheduler);
        if (kind.equals("split")) {
            client.setOutboundMessageSizeLimit(SPLIT);
        }
        return client.connectAsync(
                System.getenv("RELAY_URL"), new WebSocketHttpHeaders(), connect, new Loud());
    }

    private static void prepare(StompClientSupport client, ThreadPoolTaskScheduler scheduler) {
        client.setTaskScheduler(scheduler);
    }

    private void play() throws Exception {
        // Receipts for SEND and SUBSCRIBE; the others have theirs by a header.
        session.setAutoReceipt(true);
        BlockingQueue<Came> news = new LinkedBlockingQueue<>();
        BlockingQueue<Came> jobs = new LinkedBlockingQueue<>();
        Subscription onTopic = subscribe(TOPIC, null, news);
        Subscription onQueue = subscribe(QUEUE, "client-individual", jobs);

        String text = "a:b\\ c\nd";
        StompHeaders greeting = new StompHeaders();
        greeting.setDestination(TOPIC);
        greeting.set("content-type", "text/plain");
        greeting.set("x-text", text);
        await(session.send(greeting, "Grüße, 世界".getBytes(StandardCharsets.UTF_8)));
        Came came = next(news);
        check(came.text().equals("Grüße, 世界"), "text");
        check(text.equals(came.headers().getFirst("x-text")), "header");
        byte[] binary = {0, 1, 10, 0, (byte) 253, (byte) 254, (byte) 255};
        StompHeaders bytes = new StompHeaders();
        bytes.setDestination(TOPIC);
        bytes.set("content-type", "application/octet-stream");
        await(session.send(bytes, binary));
        check(Arrays.equals(next(news).body(), binary), "binary");

        send(QUEUE, "one");
        acknowledge(next(jobs), true);
        send(QUEUE, "two");
        acknowledge(next(jobs), false);
        Came again = next(jobs);
        check(again.text().equals("two"), "two again");
        acknowledge(again, true);

        send(TOPIC, "x".repeat(LARGE));
        check(next(news).body().length == LARGE, "large");

        Thread.sleep(BEATS);
        onQueue.unsubscribe(receipt("gone-1"));
        onTopic.unsubscribe(receipt("gone-2"));
        session.disconnect();
    }

    private static StompHeaders receipt(String id) {
        StompHeaders headers = new StompHeaders();
        headers.setReceipt(id);
        return headers;
    }

    private Subscription subscribe(String destination, String ack, BlockingQueue<Came> to)
            throws Exception {
        StompHeaders headers = new StompHeaders();
        headers.setDestination(destination);
        if (ack != null) {
            headers.setAck(ack);
        }
        Subscription subscription = session.subscribe(headers, new StompFrameHandler() {
            @Override
            public Type getPayloadType(StompHeaders headers) {
                return byte[].class;
            }

            @Override
            public void handleFrame(StompHeaders headers, Object payload) {
                to.add(new Came(headers, (byte[]) payload));
            }
        });
        await(subscription);
        return subscription;
    }

    private void send(String destination, String body) throws Exception {
        StompHeaders headers = new StompHeaders();
        headers.setDestination(destination);
        await(session.send(headers, body.getBytes(StandardCharsets.UTF_8)));
    }

    private void acknowledge(Came came, boolean isConsumed) throws Exception {
        StompHeaders headers = new StompHeaders();
        headers.setId(came.headers().getAck());
        await(session.acknowledge(headers, isConsumed));
    }

    private static void await(Receiptable receipt) throws Exception {
        CompletableFuture<Void> came = new CompletableFuture<>();
        receipt.addReceiptTask(() -> came.complete(null));
        receipt.addReceiptLostTask(
                () -> came.completeExceptionally(new IllegalStateException("no receipt")));
        came.get(PATIENCE, TimeUnit.SECONDS);
    }

    private static Came next(BlockingQueue<Came> from) throws InterruptedException {
        Came came = from.poll(PATIENCE, TimeUnit.SECONDS);
        check(came != null, "nothing came");
        return came;
    }

    private static void check(boolean isRight, String what) {
        if (!isRight) {
            throw new IllegalStateException(what);
        }
    }

    /** Ends the program where something is wrong. */
    private static final class Loud extends StompSessionHandlerAdapter {
        @Override
        public void handleFrame(StompHeaders headers, Object payload) {
            System.err.println("ERROR " + headers);
            System.exit(1);
        }

        @Override
        public void handleException(StompSession session, StompCommand command,
                StompHeaders headers, byte[] payload, Throwable exception) {
            exception.printStackTrace();
            System.exit(1);
        }
    }
}
