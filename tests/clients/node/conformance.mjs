// Every test, one after the other: they count what the daemon does.

import "./runs.mjs";
import "./sessions.mjs";
import "./errors.mjs";
import "./daemon.mjs";
import "./endings.mjs";
