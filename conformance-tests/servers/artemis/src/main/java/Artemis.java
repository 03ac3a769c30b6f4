import org.apache.activemq.artemis.core.config.Configuration;
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.core.settings.impl.AddressSettings;

/**
 * ActiveMQ Artemis with STOMP, and STOMP over WebSocket, on one port: {@code Artemis FOLDER PORT}.
 * As it comes, but for what the conformance tests need: no login is asked for, queues are made
 * when they are used, {@code /queue/} is anycast and {@code /topic/} multicast.
 */
public final class Artemis {

    private Artemis() {
    }

    public static void main(String[] args) throws Exception {
        Configuration configuration = new ConfigurationImpl()
                .setSecurityEnabled(false)
                .setPersistenceEnabled(false)
                .setJournalDirectory(args[0] + "/journal")
                .setBindingsDirectory(args[0] + "/bindings")
                .setPagingDirectory(args[0] + "/paging")
                .setLargeMessagesDirectory(args[0] + "/large")
                .addAcceptorConfiguration("stomp", "tcp://127.0.0.1:" + args[1]
                        + "?protocols=STOMP;anycastPrefix=/queue/;multicastPrefix=/topic/")
                .addAddressSetting("#", new AddressSettings()
                        .setAutoCreateQueues(true)
                        .setAutoCreateAddresses(true));
        EmbeddedActiveMQ server = new EmbeddedActiveMQ().setConfiguration(configuration);
        server.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(server)));
        System.out.println("Artemis " + server.getActiveMQServer().getVersion().getFullVersion());
    }

    private static void stop(EmbeddedActiveMQ server) {
        try {
            server.stop();
        } catch (Exception exception) {
            exception.printStackTrace();
        }
    }
}
