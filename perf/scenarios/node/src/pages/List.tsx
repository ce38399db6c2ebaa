import { Button, Card, CardActions, CardContent, CardHeader, Stack, Typography } from "@mui/material";
import { formatDistanceToNow } from "date-fns";

import { Markdown } from "../markdown";
import { useNotes } from "../notes";

export function List() {
  const { notes, remove } = useNotes();
  if (notes.length === 0) {
    return <Typography>No notes yet.</Typography>;
  }
  return (
    <Stack spacing={2}>
      {notes.map((note) => (
        <Card key={note.id} component="article">
          <CardHeader
            title={note.title}
            subheader={formatDistanceToNow(note.written, { addSuffix: true })}
          />
          <CardContent>
            <Markdown text={note.text} />
          </CardContent>
          <CardActions>
            <Button onClick={() => remove(note.id)}>Delete</Button>
          </CardActions>
        </Card>
      ))}
    </Stack>
  );
}
