package invalid.example.inventory;

import org.springframework.boot.ApplicationArguments;
import org.springframework.boot.ApplicationRunner;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.stereotype.Component;

/** With {@code --check} the program tries the warehouse, prints one line and ends. */
@Component
class Check implements ApplicationRunner {
    private final Warehouse warehouse;
    private final ConfigurableApplicationContext context;

    Check(Warehouse warehouse, ConfigurableApplicationContext context) {
        this.warehouse = warehouse;
        this.context = context;
    }

    @Override
    public void run(ApplicationArguments arguments) {
        if (!arguments.containsOption("check")) {
            return;
        }
        warehouse.add("bolt", "<b>M8</b><script>alert(1)</script>", 7);
        Item left = warehouse.take("bolt", 4);
        System.out.printf(
                "inventory revision=%d left=%d description=%s sheet=%b%n",
                Revision.NUMBER, left.quantity(), left.description(), warehouse.list().length > 0);
        context.close();
    }
}
