import { Button, Stack, TextField } from "@mui/material";
import { useForm } from "react-hook-form";
import { useNavigate } from "react-router";

import { Markdown } from "../markdown";
import { Draft, useNotes } from "../notes";

export function Write() {
  const add = useNotes((state) => state.add);
  const navigate = useNavigate();
  const form = useForm<Draft>({ defaultValues: { title: "", text: "" } });
  const save = form.handleSubmit((values) => {
    const draft = Draft.safeParse(values);
    if (!draft.success) {
      form.setError("title", { message: draft.error.issues[0]?.message });
      return;
    }
    add(draft.data);
    void navigate("/");
  });
  const problem = form.formState.errors.title?.message;
  return (
    <Stack component="form" spacing={2} onSubmit={save}>
      <TextField label="Title" error={!!problem} helperText={problem} {...form.register("title")} />
      <TextField label="Text" multiline minRows={6} {...form.register("text")} />
      <Markdown text={form.watch("text")} />
      <Button type="submit" variant="contained">
        Save
      </Button>
    </Stack>
  );
}
