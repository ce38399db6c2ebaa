package invalid.example.inventory;

import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.stereotype.Component;

/** Takes in what suppliers announce, where there are brokers: a line with name and quantity. */
@Component
@ConditionalOnProperty("spring.kafka.bootstrap-servers")
class Deliveries {
    private final Warehouse warehouse;

    Deliveries(Warehouse warehouse) {
        this.warehouse = warehouse;
    }

    @KafkaListener(topics = "deliveries", groupId = "inventory")
    void arrived(String line) {
        String[] fields = line.split(" ", 2);
        warehouse.add(fields[0], "", Integer.parseInt(fields[1]));
    }
}
