package compared;

import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.messaging.simp.config.MessageBrokerRegistry;
import org.springframework.scheduling.concurrent.ThreadPoolTaskScheduler;
import org.springframework.web.socket.config.annotation.EnableWebSocketMessageBroker;
import org.springframework.web.socket.config.annotation.StompEndpointRegistry;
import org.springframework.web.socket.config.annotation.WebSocketMessageBrokerConfigurer;

/**
 * Spring's brokers as an application has them: raw WebSocket at {@code /ws}, SockJS at
 * {@code /sockjs}. The simple broker, or with {@code --rabbitmq=PORT} the relay in front of
 * RabbitMQ's STOMP port.
 */
@SpringBootApplication
@EnableWebSocketMessageBroker
public class Spring implements WebSocketMessageBrokerConfigurer {

    private static final long BEAT = 10_000;

    @Value("${rabbitmq:0}")
    private int rabbitmq;

    public static void main(String[] args) {
        SpringApplication.run(Spring.class, args);
    }

    @Override
    public void registerStompEndpoints(StompEndpointRegistry registry) {
        // Left alone, Spring hands the frames of one session to a pool of threads, in any order.
        registry.setPreserveReceiveOrder(true);
        registry.addEndpoint("/ws").setAllowedOriginPatterns("*");
        registry.addEndpoint("/sockjs").setAllowedOriginPatterns("*").withSockJS();
    }

    @Override
    public void configureMessageBroker(MessageBrokerRegistry registry) {
        registry.setPreservePublishOrder(true);
        if (rabbitmq == 0) {
            ThreadPoolTaskScheduler scheduler = new ThreadPoolTaskScheduler();
            scheduler.initialize();
            registry.enableSimpleBroker("/queue", "/topic")
                    .setHeartbeatValue(new long[] {BEAT, BEAT})
                    .setTaskScheduler(scheduler);
        } else {
            registry.enableStompBrokerRelay(
                            "/queue", "/topic", "/exchange", "/amq/queue", "/temp-queue")
                    .setRelayHost("127.0.0.1")
                    .setRelayPort(rabbitmq)
                    // Otherwise the relay's host, which RabbitMQ has no virtual host for.
                    .setVirtualHost("/");
        }
    }
}
