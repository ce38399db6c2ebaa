package invalid.example.inventory;

import java.net.URI;
import java.time.LocalDate;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.scheduling.annotation.EnableScheduling;
import org.springframework.scheduling.annotation.Scheduled;
import org.springframework.stereotype.Component;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.services.s3.S3Client;

/** Puts the stock list of each day into a bucket, where one is named. */
@Component
@EnableScheduling
@ConditionalOnProperty("inventory.archive.bucket")
class Archive {
    private final Warehouse warehouse;
    private final String bucket;
    private final S3Client client;

    Archive(
            Warehouse warehouse,
            @Value("${inventory.archive.bucket}") String bucket,
            @Value("${inventory.archive.endpoint}") URI endpoint) {
        this.warehouse = warehouse;
        this.bucket = bucket;
        this.client = S3Client.builder().endpointOverride(endpoint).build();
    }

    @Scheduled(cron = "0 0 3 * * *")
    void store() {
        byte[] list = warehouse.list();
        String key = "stock-%s.xlsx".formatted(LocalDate.now());
        client.putObject(request -> request.bucket(bucket).key(key), RequestBody.fromBytes(list));
    }
}
