import { Typography } from "@mui/material";
import { useQuery } from "@tanstack/react-query";
import { Bar, BarChart, Legend, ResponsiveContainer, Tooltip, XAxis, YAxis } from "recharts";

import { useNotes } from "../notes";
import { lastDays } from "../statistics";

export function Statistics() {
  const notes = useNotes((state) => state.notes);
  const { data, error } = useQuery({
    queryKey: ["days", notes],
    queryFn: () => lastDays(notes, 14, new Date()),
  });
  if (error) {
    return <Typography color="error">{error.message}</Typography>;
  }
  return (
    <ResponsiveContainer width="100%" height={320}>
      <BarChart data={data ?? []}>
        <XAxis dataKey="day" />
        <YAxis allowDecimals={false} />
        <Tooltip />
        <Legend />
        <Bar dataKey="notes" fill="#1565c0" />
        <Bar dataKey="words" fill="#9ccc65" />
      </BarChart>
    </ResponsiveContainer>
  );
}
