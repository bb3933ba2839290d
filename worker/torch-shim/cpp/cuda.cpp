// Streams, events and graphs.
#include "shim.h"
