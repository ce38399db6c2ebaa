package invalid.example.inventory;

import java.util.List;
import java.util.Optional;
import org.springframework.data.jpa.repository.JpaRepository;

/** The items that there are. */
interface Items extends JpaRepository<Item, Long> {
    Optional<Item> findByName(String name);

    List<Item> findByQuantityLessThanOrderByName(int quantity);
}
