package invalid.example.inventory;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;

@SpringBootTest
class WarehouseTest {
    @Autowired private Warehouse warehouse;

    @Test
    void whatIsTakenIsGone() {
        warehouse.add("nut", "", 3);

        warehouse.take("nut", 2);

        assertThat(warehouse.scarce(2)).extracting(Item::name).contains("nut");
    }

    @Test
    void moreThanThereIsCannotBeTaken() {
        warehouse.add("screw", "", 1);

        assertThatThrownBy(() -> warehouse.take("screw", 2)).isInstanceOf(NotEnoughException.class);
    }
}
