package invalid.example.inventory;

import jakarta.validation.Valid;
import jakarta.validation.constraints.NotBlank;
import jakarta.validation.constraints.NotNull;
import jakarta.validation.constraints.Positive;
import java.util.List;
import java.util.NoSuchElementException;
import org.springframework.http.HttpStatus;
import org.springframework.http.ProblemDetail;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;

/** The warehouse over HTTP. */
@RestController
@RequestMapping("/items")
class WarehouseController {
    private final Warehouse warehouse;

    WarehouseController(Warehouse warehouse) {
        this.warehouse = warehouse;
    }

    record Added(@NotBlank String name, @NotNull String description, @Positive int quantity) {}

    record Taken(@Positive int count) {}

    record Shown(Long id, String name, String description, int quantity) {
        static Shown of(Item item) {
            return new Shown(item.id(), item.name(), item.description(), item.quantity());
        }
    }

    @PostMapping
    @ResponseStatus(HttpStatus.CREATED)
    Shown add(@Valid @RequestBody Added added) {
        return Shown.of(warehouse.add(added.name(), added.description(), added.quantity()));
    }

    @PostMapping("/{name}/take")
    Shown take(@PathVariable String name, @Valid @RequestBody Taken taken) {
        return Shown.of(warehouse.take(name, taken.count()));
    }

    @GetMapping("/scarce")
    List<Shown> scarce(@RequestParam(defaultValue = "5") int below) {
        return warehouse.scarce(below).stream().map(Shown::of).toList();
    }

    @GetMapping(
            value = "/list",
            produces = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")
    byte[] list() {
        return warehouse.list();
    }

    @ExceptionHandler
    ProblemDetail unknown(NoSuchElementException error) {
        return ProblemDetail.forStatusAndDetail(HttpStatus.NOT_FOUND, error.getMessage());
    }

    @ExceptionHandler
    ProblemDetail notEnough(NotEnoughException error) {
        return ProblemDetail.forStatusAndDetail(HttpStatus.CONFLICT, error.getMessage());
    }
}
