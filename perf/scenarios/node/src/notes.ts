import { z } from "zod";
import { create } from "zustand";
import { persist } from "zustand/middleware";

export const Note = z.object({
  id: z.string(),
  title: z.string().trim().min(1, "A note needs a title").max(80),
  text: z.string(),
  written: z.coerce.date(),
});
export type Note = z.infer<typeof Note>;

/** What a form gives; the rest is the store's. */
export const Draft = Note.pick({ title: true, text: true });
export type Draft = z.infer<typeof Draft>;

interface Notes {
  notes: Note[];
  add: (draft: Draft) => void;
  remove: (id: string) => void;
}

export const useNotes = create<Notes>()(
  persist(
    (set) => ({
      notes: [],
      add: (draft) =>
        set(({ notes }) => ({
          notes: [{ ...draft, id: crypto.randomUUID(), written: new Date() }, ...notes],
        })),
      remove: (id) => set(({ notes }) => ({ notes: notes.filter((note) => note.id !== id) })),
    }),
    {
      name: "notes",
      // What the browser kept may be of another release: only what is still a note is taken.
      merge: (kept, current) => {
        const found = z.object({ notes: z.array(Note) }).safeParse(kept);
        return found.success ? { ...current, ...found.data } : current;
      },
    },
  ),
);
