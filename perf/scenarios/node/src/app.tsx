import { AppBar, Button, Container, Toolbar, Typography } from "@mui/material";
import { lazy, Suspense } from "react";
import { Link, Route, Routes } from "react-router";

import { List } from "./pages/List";
import { Write } from "./pages/Write";
import { REVISION } from "./revision";

const Statistics = lazy(async () => ({
  default: (await import("./pages/Statistics")).Statistics,
}));

export function App() {
  return (
    <>
      <AppBar position="static">
        <Toolbar>
          <Typography sx={{ flexGrow: 1 }}>Notes, revision {REVISION}</Typography>
          <Button color="inherit" component={Link} to="/">
            All
          </Button>
          <Button color="inherit" component={Link} to="/write">
            Write
          </Button>
          <Button color="inherit" component={Link} to="/statistics">
            Statistics
          </Button>
        </Toolbar>
      </AppBar>
      <Container component="main" sx={{ paddingTop: 3 }}>
        <Suspense fallback={<Typography>Loading …</Typography>}>
          <Routes>
            <Route index element={<List />} />
            <Route path="write" element={<Write />} />
            <Route path="statistics" element={<Statistics />} />
          </Routes>
        </Suspense>
      </Container>
    </>
  );
}
