import { eachDayOfInterval, format, isSameDay, subDays } from "date-fns";

import type { Note } from "./notes";

export interface Day {
  day: string;
  notes: number;
  words: number;
}

export const words = (text: string): number => text.split(/\s+/).filter(Boolean).length;

/** Notes and words of each of the last days, the oldest first. */
export function lastDays(notes: Note[], days: number, today: Date): Day[] {
  return eachDayOfInterval({ start: subDays(today, days - 1), end: today }).map((date) => {
    const written = notes.filter((note) => isSameDay(note.written, date));
    return {
      day: format(date, "d MMM"),
      notes: written.length,
      words: written.reduce((sum, note) => sum + words(note.text), 0),
    };
  });
}
