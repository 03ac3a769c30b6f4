import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

import io.vertx.core.Future;
import io.vertx.core.Vertx;
import io.vertx.core.buffer.Buffer;
import io.vertx.core.internal.VertxInternal;
import io.vertx.core.json.JsonObject;
import io.vertx.ext.stomp.Frame;
import io.vertx.ext.stomp.StompClient;
import io.vertx.ext.stomp.StompClientConnection;
import io.vertx.ext.stomp.StompClientOptions;

/** Vert.x' STOMP client, over TCP. The story is that of ../story.mjs. */
public final class Story {

    private static final int LARGE = 40_000;
    private static final int PATIENCE = 25;
    /** Beats are due every 10 s, and the client says nothing of those it sends. */
    private static final int BEATS = 11_000;

    private static final String STORY = System.getenv("STORY");
    private static final String TOPIC = "/topic/rec." + STORY;
    private static final String QUEUE = "/queue/rec-" + STORY;

    private final StompClientConnection connection;

    private Story(StompClientConnection connection) {
        this.connection = connection;
    }

    public static void main(String[] args) throws Exception {
        System.out.println("@client io.vertx:vertx-stomp");
        System.out.println("@version " + VertxInternal.version());
        System.out.println("@registry Maven Central");
        System.out.println("@runtime Java " + Runtime.version().feature());
        Vertx vertx = Vertx.vertx();
        StompClientOptions options = new StompClientOptions()
                .setHost(System.getenv("RELAY_HOST"))
                .setPort(Integer.parseInt(System.getenv("RELAY_PORT")))
                .setLogin("guest")
                .setPasscode("guest")
                .setHeartbeat(new JsonObject().put("x", 10_000).put("y", 10_000));
        StompClient client = StompClient.create(vertx, options).errorFrameHandler(frame -> {
            System.err.println(frame);
            System.exit(1);
        });
        new Story(await(client.connect())).play();
        await(vertx.close());
    }

    private void play() throws Exception {
        BlockingQueue<Frame> news = new LinkedBlockingQueue<>();
        BlockingQueue<Frame> jobs = new LinkedBlockingQueue<>();
        String onTopic = await(connection.subscribe(TOPIC, news::add));
        String onQueue = await(connection.subscribe(
                QUEUE, new HashMap<>(Map.of("ack", "client-individual")), jobs::add));

        String text = "a:b\\ c\nd";
        await(connection.send(TOPIC, new HashMap<>(
                Map.of("content-type", "text/plain", "x-text", text)), Buffer.buffer("Grüße, 世界")));
        Frame came = next(news);
        check(came.getBodyAsString("UTF-8").equals("Grüße, 世界"), "text");
        check(text.equals(came.getHeader("x-text")), "header");
        byte[] binary = {0, 1, 10, 0, (byte) 253, (byte) 254, (byte) 255};
        await(connection.send(TOPIC, Buffer.buffer(binary)));
        check(Arrays.equals(next(news).getBodyAsByteArray(), binary), "binary");

        send(QUEUE, "one");
        await(connection.ack(next(jobs).getAck()));
        send(QUEUE, "two");
        await(connection.nack(next(jobs).getAck()));
        Frame again = next(jobs);
        check(again.getBodyAsString().equals("two"), "two again");
        await(connection.ack(again.getAck()));

        await(connection.beginTX("kept"));
        inTransaction("kept", "three");
        await(connection.commit("kept"));
        Frame third = next(jobs);
        await(connection.beginTX("taken"));
        await(connection.ack(third.getAck(), "taken"));
        await(connection.commit("taken"));
        await(connection.beginTX("dropped"));
        inTransaction("dropped", "never");
        await(connection.abort("dropped"));

        send(TOPIC, "x".repeat(LARGE));
        check(next(news).getBody().length() == LARGE, "large");

        Thread.sleep(BEATS);
        await(connection.unsubscribe(onQueue));
        await(connection.unsubscribe(onTopic));
        await(connection.disconnect());
    }

    private void send(String destination, String body) throws Exception {
        await(connection.send(destination, Buffer.buffer(body)));
    }

    private void inTransaction(String transaction, String body) throws Exception {
        await(connection.send(QUEUE,
                new HashMap<>(Map.of("transaction", transaction)), Buffer.buffer(body)));
    }

    private static <T> T await(Future<T> future) throws Exception {
        return future.toCompletionStage().toCompletableFuture().get(PATIENCE, TimeUnit.SECONDS);
    }

    private static Frame next(BlockingQueue<Frame> from) throws InterruptedException {
        Frame frame = from.poll(PATIENCE, TimeUnit.SECONDS);
        check(frame != null, "nothing came");
        return frame;
    }

    private static void check(boolean isRight, String what) {
        if (!isRight) {
            throw new IllegalStateException(what);
        }
    }
}
