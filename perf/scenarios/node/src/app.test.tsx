import { fireEvent, render, screen } from "@testing-library/react";
import { MemoryRouter } from "react-router";
import { expect, test } from "vitest";

import { App } from "./app";

test("a note that is written stands in the list", async () => {
  render(
    <MemoryRouter initialEntries={["/write"]}>
      <App />
    </MemoryRouter>,
  );

  fireEvent.change(screen.getByLabelText("Title"), { target: { value: "Shopping" } });
  fireEvent.change(screen.getByLabelText("Text"), { target: { value: "**bread**" } });
  fireEvent.click(screen.getByText("Save"));

  expect(await screen.findByText("Shopping")).toBeTruthy();
  expect(screen.getByText("bread").tagName).toBe("STRONG");
});
