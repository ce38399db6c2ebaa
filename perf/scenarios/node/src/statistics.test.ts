import { expect, test } from "vitest";

import { lastDays, words } from "./statistics";

test("counts words between any white space", () => {
  expect(words("  one two\nthree ")).toBe(3);
});

test("puts notes into the day they were written on", () => {
  const today = new Date(2026, 4, 2, 12);
  const note = { id: "1", title: "a", text: "one two", written: new Date(2026, 4, 1, 23) };

  expect(lastDays([note], 2, today)).toEqual([
    { day: "1 May", notes: 1, words: 2 },
    { day: "2 May", notes: 0, words: 0 },
  ]);
});
