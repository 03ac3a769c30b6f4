// A page as Spring's guide "Using WebSocket to build an interactive web application" has pages
// built, without its jQuery.

var stompClient = null;

function byId(id) {
  return document.getElementById(id);
}

function setConnected(connected) {
  byId("connect").disabled = connected;
  byId("disconnect").disabled = !connected;
  byId("conversation").hidden = !connected;
  byId("greetings").innerHTML = "";
}

function connect() {
  var socket = new SockJS("/gs-guide-websocket");
  stompClient = Stomp.over(socket);
  stompClient.connect({}, function (frame) {
    setConnected(true);
    console.log("Connected: " + frame);
    stompClient.subscribe("/topic/greetings", function (greeting) {
      showGreeting(JSON.parse(greeting.body).content);
    });
  });
}

function disconnect() {
  if (stompClient !== null) {
    stompClient.disconnect();
  }
  setConnected(false);
  console.log("Disconnected");
}

function sendName() {
  stompClient.send("/app/hello", {}, JSON.stringify({ name: byId("name").value }));
}

function showGreeting(message) {
  var cell = document.createElement("td");
  cell.textContent = message;
  byId("greetings").appendChild(document.createElement("tr")).appendChild(cell);
}

function on(id, action) {
  byId(id).addEventListener("click", function (event) {
    event.preventDefault();
    action();
  });
}

on("connect", connect);
on("disconnect", disconnect);
on("send", sendName);
